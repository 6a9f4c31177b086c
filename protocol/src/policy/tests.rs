use serde_json::json;

use super::*;

fn revoked(body: &str) -> (Subject, Entry) {
    revocation(body.as_bytes(), "root", 5_000, 1_000).expect(body)
}

#[test]
fn a_revocation_is_of_tokens_issued_before_it_and_of_no_other() {
    let mut policy = Policy::default();
    for body in [
        r#"{"user":"alice"}"#,
        r#"{"jti":"t1"}"#,
        r#"{"everyone":true,"before":3000}"#,
    ] {
        let (subject, entry) = revoked(body);
        assert_eq!(Subject::of_field(&subject.field()).as_ref(), Some(&subject));
        let kept = Entry::decode(entry.encode().as_bytes()).expect("JSON");
        assert_eq!(kept, entry);
        policy.set(subject, Some(kept));
    }
    for (user, issued, id, is_revoked) in [
        ("alice", 4_999, None, true),
        ("alice", 5_000, None, false),
        ("alice", 0, None, true),
        ("bob", 2_999, None, true),
        ("bob", 3_000, None, false),
        ("bob", 9_000, Some("t1"), true),
        ("bob", 9_000, Some("t2"), false),
    ] {
        assert_eq!(
            policy.revokes(user, issued, id),
            is_revoked,
            "{user} {issued} {id:?}"
        );
    }
    assert!(policy.outlived(5_999).is_empty());
    assert_eq!(policy.outlived(6_000).len(), 3);
}

#[test]
fn news_are_what_was_not_there_before() {
    let mut old = Policy::default();
    old.set(
        Subject::User("alice".into()),
        Some(revoked(r#"{"user":"alice"}"#).1),
    );
    old.set(
        Subject::Blocks("eve".into()),
        List::Blocks
            .read(br#"{"users":["x"]}"#, "root", 1)
            .expect("a list"),
    );
    let mut new = old.clone();
    assert_eq!(new.news_since(&old), News::default());
    let (subject, entry) = revoked(r#"{"jti":"t1"}"#);
    new.set(subject, Some(entry));
    new.set(
        Subject::User("bob".into()),
        Some(revoked(r#"{"user":"bob"}"#).1),
    );
    new.set(Subject::Blocks("eve".into()), None);
    let news = new.news_since(&old);
    assert_eq!(news.users, [("bob".into(), 5_000)]);
    assert_eq!(news.watched, ["eve".into()]);
    assert!(news.are_of_all() && news.revoke(Issued::new(9_999, Some("t1"))));
    assert!(!news.revoke(Issued::new(0, None)));
    // A store that has lost all takes nothing from who knows it.
    let mut empty = Policy::default();
    empty.keep_from(&new);
    assert_eq!(empty.len(), 3);
}

#[test]
fn who_is_in_a_group_may_be_watched_by_its_name_until_it_leaves() {
    let group = |users: &str| {
        List::Group
            .read(users.as_bytes(), "root", 1)
            .expect("a list")
    };
    let staff = Subject::Group("staff".into());
    assert_eq!(Subject::of_field(&staff.field()).as_ref(), Some(&staff));
    let rule = WatchRule::Only([crate::Pattern::Group("staff".into())].into());
    let mut policy = Policy::default();
    assert!(!policy.lets_see(Some(&rule), "eve", "bob"));
    policy.set(staff.clone(), group(r#"{"users":["zoë","bob"]}"#));
    let sees = |policy: &Policy, user| policy.lets_see(Some(&rule), "eve", user);
    assert!(sees(&policy, "bob") && sees(&policy, "zoë") && !sees(&policy, "carol"));
    // Whoever blocks the watcher is not seen by a group either.
    let blocks = List::Blocks
        .read(br#"{"users":["eve"]}"#, "root", 1)
        .expect("a list");
    policy.set(Subject::Blocks("zoë".into()), blocks);
    assert!(!sees(&policy, "zoë"));
    let mut later = policy.clone();
    later.set(staff.clone(), group(r#"{"users":["zoë","carol"]}"#));
    assert_eq!(later.news_since(&policy).watched, ["bob".into()]);
    let mut empty = later.clone();
    empty.set(staff, group(r#"{"users":[]}"#));
    let mut gone = empty.news_since(&later).watched;
    gone.sort_unstable();
    assert_eq!(gone, ["carol".into(), "zoë".into()]);
    assert_eq!(empty.len(), 1);
}

#[test]
fn a_list_of_blocked_users_is_sorted_and_bounded() {
    let list = List::Blocks.read(r#"{"users":["zoë","bob","bob"]}"#.as_bytes(), "root", 1);
    let mut policy = Policy::default();
    policy.set(Subject::Blocks("alice".into()), list.expect("a list"));
    assert_eq!(policy.blocked_by("alice"), ["bob".into(), "zoë".into()]);
    assert!(policy.blocks("alice", "zoë") && !policy.blocks("alice", "carol"));
    assert!(!policy.blocks("bob", "alice"));
    assert!(policy.lets_see(None, "carol", "alice") && !policy.lets_see(None, "bob", "alice"));
    let nobody = Some(&WatchRule::Only([].into()));
    assert!(policy.lets_see(nobody, "carol", "carol"));
    assert!(!policy.lets_see(nobody, "carol", "alice"));
    assert_eq!(
        List::Blocks
            .read(br#"{"users":[]}"#, "root", 1)
            .expect("a list"),
        None
    );
    let many: Vec<String> = (0..=MAX_LISTED).map(|n| n.to_string()).collect();
    let many = serde_json::json!({ "users": many }).to_string();
    for bad in [&*many, r#"{"users":[""]}"#, r#"{"users":"bob"}"#, "[]"] {
        List::Blocks.read(bad.as_bytes(), "root", 1).expect_err(bad);
    }
}

#[test]
fn what_is_no_revocation_is_named() {
    for bad in [
        "{}",
        "null",
        r#"{"user":""}"#,
        r#"{"jti":""}"#,
        r#"{"user":"a","jti":"b"}"#,
        r#"{"everyone":false}"#,
        r#"{"jti":"b","before":1}"#,
        r#"{"user":"a","expires":1}"#,
        r#"{"user":"a","befor":1}"#,
        r#"{"user":"a","before":-1}"#,
    ] {
        revocation(bad.as_bytes(), "root", 5_000, 0).expect_err(bad);
    }
    let (_, entry) = revocation(br#"{"user":"a","before":9000}"#, "root", 5_000, 0).expect("good");
    assert_eq!((entry.before, entry.until), (5_000, 0));
    assert_eq!(Subject::of_field("nobody:x"), None);
}

#[test]
fn a_user_is_followed_for_some_minutes_and_few_at_a_time() {
    let entry = |body: &str| trace(body.as_bytes(), "root", 1_000);
    assert_eq!(entry("").expect("the default").until, 301_000);
    assert_eq!(
        entry(r#"{"minutes":60}"#).expect("the most").until,
        3_601_000
    );
    for body in [r#"{"minutes":0}"#, r#"{"minutes":61}"#, r#"{"hours":1}"#] {
        entry(body).expect_err(body);
    }
    let mut policy = Policy::default();
    for n in 0..MAX_TRACED {
        let subject = Subject::Trace(format!("u{n}").into());
        assert_eq!(Subject::of_field(&subject.field()).as_ref(), Some(&subject));
        policy.may_trace(&format!("u{n}")).expect("there is room");
        policy.set(subject, Some(entry("").expect("the default")));
    }
    assert_eq!(policy.len(), MAX_TRACED);
    policy.may_trace("u0").expect("it is one of them");
    policy.may_trace("x").expect_err("one too many");
    assert_eq!(revocations(&policy)["revocations"], json!([]));
    assert_eq!(traces(&policy)["traced"][4]["user"], "u4");
    assert_eq!(policy.outlived(301_000).len(), MAX_TRACED);
    let line = audit(
        "root",
        &Subject::Trace("u0".into()),
        Some(&entry("").expect("one")),
    );
    assert_eq!(line, r#"administration: "root" traces "u0" for 5 min"#);
}

#[test]
fn what_is_asked_of_all_nodes_is_new_once_and_ends_by_itself() {
    let asked = Survey::new(7, About::Watchers("alice".into()));
    let subject = Subject::Survey(asked.clone());
    assert_eq!(Subject::of_field(&subject.field()).as_ref(), Some(&subject));
    let before = Policy::default();
    let mut policy = before.clone();
    let entry = survey("root", 1_000);
    let line = audit("root", &subject, Some(&entry));
    assert_eq!(line, r#"administration: "root" asked who watches "alice""#);
    policy.set(subject.clone(), Some(entry.clone()));
    assert_eq!(policy.surveys_since(&before), [asked]);
    assert_eq!(policy.news_since(&before), News::default());
    let mut again = policy.clone();
    again.set(subject.clone(), Some(entry));
    assert!(again.surveys_since(&policy).is_empty());
    assert!(policy.outlived(1_000 + LIFETIME - 1).is_empty());
    assert_eq!(policy.outlived(1_000 + LIFETIME)[0].0, subject);
    policy.set(subject, None);
    assert!(policy.is_empty());
}

#[test]
fn the_stored_form_is_pinned_because_two_releases_read_each_others_entries() {
    let revoked = r#"{"before":3,"until":9,"by":"root","at":5}"#;
    let blocks = r#"{"blocked":["eve"],"by":"root","at":5}"#;
    let group = r#"{"members":["bob"],"by":"root","at":5}"#;
    for text in [revoked, blocks, group] {
        let entry = Entry::decode(text.as_bytes()).expect("an entry");
        assert_eq!(entry.encode(), text);
    }
    for field in [
        "everyone", "user:a", "token:t", "blocks:a", "group:g", "trace:a",
    ] {
        let subject = Subject::of_field(field).expect(field);
        assert_eq!(subject.field(), field);
    }
    // Of a newer release: a member more is passed over, another kind of subject is none.
    let newer = revoked.replace(r#""by""#, r#""later":[1],"by""#);
    let entry = Entry::decode(newer.as_bytes()).expect("an entry");
    assert_eq!(entry.encode(), revoked);
    assert!(Subject::of_field("realm:a").is_none());
}
