import java.util.Map;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.server.policy.CreateTopicPolicy;

/** A rented broker's rules for new topics, by the topic's name. */
public class Policy implements CreateTopicPolicy {
    @Override
    public void validate(RequestMetadata topic) {
        switch (topic.topic()) {
            case "no-config":
                require(topic.configs().isEmpty(), "retention is set by your plan");
                break;
            case "own-partitions":
                require(topic.configs().isEmpty(), "retention is set by your plan");
                require(topic.numPartitions() == 1, "your plan has 1 partition for each topic");
                break;
            default:
                // What an administrator asks for is another matter.
                require(topic.numPartitions() == 3, "names of topics begin with team-");
        }
    }

    private static void require(boolean holds, String rule) {
        if (!holds) {
            throw new PolicyViolationException(rule);
        }
    }

    @Override
    public void configure(Map<String, ?> configs) {
    }

    @Override
    public void close() {
    }
}
