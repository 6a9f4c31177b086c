//! A real broker for tests: Apache Kafka with one node in a folder of its own, as a child
//! process that ends with the test process, whatever ends that. It owns the process, its folder
//! and its ports on 127.0.0.1. Its libraries come from `scripts/fetch-kafka`; it needs Java 17.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    pin::pin,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};

const VERSION: &str = "4.3.1";
/// A start takes 4 s on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts the broker ($1 is its folder, the rest its command), prints its process id, and kills
/// it when its own input ends, which is when the test process does. The folder goes, too, unless
/// the last word was `keep`.
const KEEPER: &str = r#"
dir=$1; shift
cd "$dir" || exit 1
"$@" >>broker.log 2>&1 </dev/null &
broker=$!
echo $broker
read -r word
kill -KILL $broker 2>/dev/null
wait $broker 2>/dev/null
cd /
[ "$word" = keep ] || rm -rf "$dir"
"#;

/// The ports of a test broker on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The port for clients without TLS and SASL.
    pub client: u16,
    /// The port of the broker's own controller.
    pub controller: u16,
    /// Free for a listener that a test adds.
    pub other: u16,
    /// A third free port, as the two before.
    pub third: u16,
}

/// A real Apache Kafka broker for tests, ended when this is dropped.
#[derive(Debug)]
pub struct KafkaServer {
    folder: PathBuf,
    ports: Ports,
    java: Vec<String>,
    /// The process; `None` while the broker is stopped.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    keeper: Child,
    input: ChildStdin,
    pid: u32,
}

impl KafkaServer {
    /// Starts a broker with an empty folder and waits until it answers.
    ///
    /// # Errors
    /// When the libraries or Java are missing or the broker does not start; its log is in the
    /// text.
    pub fn start() -> io::Result<Self> {
        Self::start_with(&[], |_| String::new())
    }

    /// The same with further arguments of Java, its tools' too, and further lines of `server.properties`, which win
    /// over the usual ones.
    ///
    /// # Errors
    /// As [`KafkaServer::start`].
    pub fn start_with(
        java: &[&str],
        properties: impl FnOnce(&Ports) -> String,
    ) -> io::Result<Self> {
        let ports = Ports {
            client: free_port()?,
            controller: free_port()?,
            other: free_port()?,
            third: free_port()?,
        };
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let folder = std::env::temp_dir().join(format!(
            "online-status-kafka-{}-{}",
            std::process::id(),
            FOLDERS.fetch_add(1, Relaxed)
        ));
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("server.properties"),
            server_properties(&ports, &folder) + &properties(&ports),
        )?;
        fs::write(folder.join("log4j2.properties"), LOG)?;
        let mut server = Self {
            folder,
            ports,
            java: java.iter().map(|&argument| argument.into()).collect(),
            running: None,
        };
        server.format()?;
        server.start_again()?;
        Ok(server)
    }

    /// The address for clients, `host:port`.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    /// The broker's ports.
    #[must_use]
    pub const fn ports(&self) -> Ports {
        self.ports
    }

    /// Starts it again with the folder and ports it had, and waits until it answers. Does nothing
    /// when it runs.
    ///
    /// # Errors
    /// As [`KafkaServer::start`].
    pub fn start_again(&mut self) -> io::Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&self.folder)
            .arg("java")
            .args([
                "-Xms256m",
                "-Xmx512m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
            ])
            .arg("-Dlog4j2.configurationFile=log4j2.properties")
            .args(class_path()?)
            .args(&self.java)
            .args(["kafka.Kafka", "server.properties"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = keeper.stdin.take().expect("its input is a pipe");
        let mut line = String::new();
        let output = keeper.stdout.take().expect("its output is a pipe");
        BufReader::new(output).read_line(&mut line)?;
        let pid = line.trim().parse().map_err(io::Error::other)?;
        self.running = Some(Running { keeper, input, pid });
        self.wait_until_it_answers()
    }

    /// Ends it in order, as an operator would.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn stop(&mut self) -> io::Result<()> {
        self.signal("TERM")?;
        let deadline = Instant::now() + PATIENCE;
        while self.lives() {
            if Instant::now() > deadline {
                return Err(io::Error::other("the broker does not stop"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.end(true)
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> io::Result<()> {
        self.end(true)
    }

    /// Stops all its threads until [`KafkaServer::thaw`]; its connections stay open.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> io::Result<()> {
        self.signal("STOP")
    }

    /// Ends a [`KafkaServer::freeze`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    /// Creates a topic with one replica.
    ///
    /// # Errors
    /// When it exists, or the broker does not answer.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> io::Result<()> {
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let admin = self.admin()?;
        let limits = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let results = answer(admin.create_topics([&topic], &limits))?.map_err(io::Error::other)?;
        for result in results {
            result.map_err(|(topic, error)| io::Error::other(format!("{topic}: {error}")))?;
        }
        Ok(())
    }

    /// A client that administrates it.
    ///
    /// # Errors
    /// When librdkafka cannot make one.
    pub fn admin(&self) -> io::Result<AdminClient<DefaultClientContext>> {
        self.config().create().map_err(io::Error::other)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers());
        config
    }

    fn format(&self) -> io::Result<()> {
        let id = "b25saW5lLXN0YXR1cy0wMQ";
        let format = [
            "format",
            "--standalone",
            "-t",
            id,
            "-c",
            "server.properties",
        ];
        self.tool("kafka.tools.StorageTool", &format)
    }

    /// Runs one of Kafka's own tools, by its class, in the broker's folder.
    ///
    /// # Errors
    /// When it fails; what it wrote is in the text.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> io::Result<()> {
        let output = Command::new("java")
            .current_dir(&self.folder)
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Dlog4j2.configurationFile=log4j2.properties")
            .args(class_path()?)
            .args(&self.java)
            .arg(class)
            .args(arguments)
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        Err(io::Error::other(
            String::from_utf8_lossy(&text).into_owned(),
        ))
    }

    /// An open port is not enough: it answers to a question about its topics.
    fn wait_until_it_answers(&self) -> io::Result<()> {
        let client: BaseConsumer = self.config().create().map_err(io::Error::other)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && self.lives() {
            let metadata = client.fetch_metadata(None, Duration::from_secs(1));
            if metadata.is_ok_and(|found| !found.brokers().is_empty()) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        let log = fs::read_to_string(self.folder.join("broker.log"))?;
        let lines: Vec<_> = log.lines().rev().take(20).collect();
        let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        Err(io::Error::other(format!("no broker:\n{tail}")))
    }

    fn running(&self) -> io::Result<&Running> {
        self.running
            .as_ref()
            .ok_or_else(|| io::Error::other("the broker does not run"))
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let pid = self.running()?.pid.to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other("no signal could be sent"))
        }
    }

    /// Whether the process has not ended; its keeper has not waited for it yet.
    fn lives(&self) -> bool {
        let Ok(running) = self.running() else {
            return false;
        };
        fs::read_to_string(format!("/proc/{}/stat", running.pid)).is_ok_and(|stat| {
            let state = stat.rsplit(')').next().unwrap_or_default();
            !state.trim_start().starts_with('Z')
        })
    }

    fn end(&mut self, keep: bool) -> io::Result<()> {
        let Some(mut running) = self.running.take() else {
            return Err(io::Error::other("the broker does not run"));
        };
        if keep {
            writeln!(running.input, "keep")?;
        }
        drop(running.input);
        running.keeper.wait().map(drop)
    }
}

impl Drop for KafkaServer {
    fn drop(&mut self) {
        // Nobody is there to be told of an error.
        if self.end(false).is_err() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Waits for what an [`AdminClient`] was asked to do.
///
/// # Errors
/// When it takes too long.
pub fn answer<F: Future>(future: F) -> io::Result<F::Output> {
    wait(future, PATIENCE).ok_or_else(|| io::Error::other("no answer"))
}

fn class_path() -> io::Result<[String; 2]> {
    Ok(["-cp".into(), format!("{}/*", libraries()?.display())])
}

/// The folder of Kafka's libraries.
///
/// # Errors
/// When it is missing.
pub fn libraries() -> io::Result<PathBuf> {
    let cache = match std::env::var_os("ONLINE_STATUS_DEV_CACHE") {
        Some(folder) => PathBuf::from(folder),
        None => {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/online-status")
        }
    };
    let libraries = cache.join(format!("kafka-{VERSION}/libs"));
    if !libraries.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "{} is missing: run scripts/fetch-kafka",
                libraries.display()
            ),
        ));
    }
    Ok(libraries)
}

/// A port below those that the kernel gives to outgoing connections: one of these could take it
/// while the broker is down.
fn free_port() -> io::Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 15_000;
    // From 20,000 on, the ports are those of the edges of other tests.
    const COUNT: u16 = 5_000;
    let begin = (std::process::id().wrapping_mul(61) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (begin + NEXT.fetch_add(1, Relaxed) % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::other("no port is free"))
}

const LOG: &str = "\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %p %c{1} %m%n
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
";

fn server_properties(ports: &Ports, folder: &Path) -> String {
    let Ports {
        client, controller, ..
    } = ports;
    let data = folder.join("data");
    let data = data.display();
    // A broker that was killed registers again when its session has ended: keep that short.
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.segment.bytes=16777216
num.network.threads=2
num.io.threads=2
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"
    )
}

/// A waker that unparks the waiting thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future that something else drives; `None` after `patience`.
fn wait<F: Future>(future: F, patience: Duration) -> Option<F::Output> {
    let deadline = Instant::now() + patience;
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}
