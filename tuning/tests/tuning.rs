//! The real program on trees of files that stand for hosts, and in a network namespace of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_online-status-tuning");
const SYSCTL: &str = "etc/sysctl.d/90-online-status.conf";
const BOOT: &str = "etc/systemd/system/online-status-tuning.service";
const RECORD: &str = "var/lib/online-status-tuning/changes.json";
const HUGE: &str = "sys/kernel/mm/transparent_hugepage/enabled";

/// A host as a tree of files.
struct Tree(PathBuf);

impl Tree {
    /// A host of four CPUs with a card of two queues, at its defaults, and the edge's unit installed.
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "online-status-tuning-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let tree = Self(std::env::temp_dir().join(name));
        for (path, text) in [
            ("proc/sys/fs/nr_open", "1048576"),
            ("proc/sys/fs/file-max", "2000000"),
            ("proc/sys/net/core/somaxconn", "4096"),
            ("proc/sys/net/core/rps_sock_flow_entries", "0"),
            ("proc/sys/net/ipv4/tcp_mem", "100\t200\t300000"),
            ("proc/sys/vm/swappiness", "60"),
            (
                "proc/interrupts",
                " 40: 0 PCI-MSIX virtio0-config\n 41: 0 PCI-MSIX virtio0-input.0\n 42: 0 PCI-MSIX virtio0-input.1\n",
            ),
            ("proc/irq/41/smp_affinity_list", "0-3"),
            ("proc/irq/42/smp_affinity_list", "0-3"),
            ("sys/class/net/eth0/device/msi_irqs/40", ""),
            ("sys/class/net/eth0/device/msi_irqs/41", ""),
            ("sys/class/net/eth0/device/msi_irqs/42", ""),
            ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0"),
            ("sys/class/net/eth0/queues/rx-0/rps_flow_cnt", "0"),
            ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0"),
            ("sys/class/net/eth0/queues/tx-0/xps_cpus", "0"),
            ("sys/class/net/eth0/queues/tx-1/xps_cpus", "0"),
            ("sys/class/net/lo/queues/rx-0/rps_cpus", "0"),
            (
                "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
                "powersave",
            ),
            ("sys/devices/system/cpu/cpu0/cpuidle/state1/latency", "133"),
            ("sys/devices/system/cpu/cpu0/cpuidle/state1/disable", "0"),
            ("sys/devices/system/cpu/cpu1/online", "1"),
            ("sys/devices/system/cpu/cpu2/online", "1"),
            ("sys/devices/system/cpu/cpu3/online", "1"),
            (HUGE, "always"),
            (
                "usr/lib/systemd/system/online-status-edge@.service",
                "[Service]\nLimitNOFILE=65536\n",
            ),
        ] {
            tree.write(path, &format!("{text}\n"));
        }
        tree
    }

    /// Has the kernel refuse one of the values, as a file of /proc does that takes no such text.
    fn refuse_a_value(&self) {
        let path = self.0.join("proc/sys/net/core/somaxconn");
        fs::remove_file(&path).expect("it was there");
        std::os::unix::fs::symlink("/proc/self/uid_map", &path).expect("a link");
        self.write("proc/sys/net/ipv4/tcp_mem", "100 200 300000\n");
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path))
            .expect(path)
            .trim()
            .to_owned()
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--root").arg(&self.0).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("it runs")
    }

    /// All files with their text.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    walk(&path, files);
                } else {
                    files.insert(path.clone(), fs::read(path).expect("a file"));
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(&self.0, &mut files);
        files
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What is left is in the temporary folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn good(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn bad(output: &Output) -> String {
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_yes_it_shows_each_change_with_its_reason_and_changes_nothing() {
    let tree = Tree::new();
    let before = tree.files();
    let said = good(&tree.run(&["apply"]));
    assert_eq!(tree.files(), before);
    for part in [
        "net.core.somaxconn",
        "4096",
        "16384",
        "connections that wait for accept",
        "kernel: admin-guide/sysctl/net",
        "LimitNOFILE=111000",
        "/etc/sysctl.d/90-online-status.conf",
        "nothing was changed",
        "power",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let limit = said.lines().find(|line| line.starts_with("LimitNOFILE"));
    let words: Vec<&str> = limit.expect("a row").split_whitespace().collect();
    assert_eq!(words[1..3], ["65536", "LimitNOFILE=111000"]);
}

#[test]
fn what_is_applied_is_kept_and_undone_to_the_byte() {
    let tree = Tree::new();
    let before = tree.files();
    good(&tree.run(&["apply", "--yes"]));
    assert_eq!(tree.read("proc/sys/net/core/somaxconn"), "16384");
    assert_eq!(tree.read("proc/sys/net/ipv4/tcp_mem"), "100 200000 300000");
    assert_eq!(tree.read(HUGE), "madvise");
    assert_eq!(tree.read("proc/irq/41/smp_affinity_list"), "0");
    assert_eq!(tree.read("proc/irq/42/smp_affinity_list"), "1");
    assert_eq!(
        tree.read("sys/class/net/eth0/queues/rx-1/rps_cpus"),
        "0000000f"
    );
    assert_eq!(
        tree.read("sys/class/net/eth0/queues/tx-1/xps_cpus"),
        "00000002"
    );
    assert_eq!(tree.read("sys/class/net/lo/queues/rx-0/rps_cpus"), "0");
    // Power was not asked for.
    assert_eq!(
        tree.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "powersave"
    );
    assert!(tree.read(SYSCTL).contains("net.core.somaxconn = 16384"));
    let unit = "etc/systemd/system/online-status-edge@.service.d/50-online-status-tuning.conf";
    assert!(tree.read(unit).ends_with("LimitNOFILE=111000"));
    assert!(
        tree.read(BOOT).contains(
            "apply --yes --sessions 100000 --only limits,network,interrupts,memory,cgroup"
        )
    );
    assert!(tree.has("etc/systemd/system/multi-user.target.wants/online-status-tuning.service"));

    let applied = tree.files();
    assert!(good(&tree.run(&["apply", "--yes"])).contains("nothing is to be changed"));
    assert_eq!(tree.files(), applied);

    good(&tree.run(&["undo"]));
    let mut after = tree.files();
    // Written as the kernel gives it back.
    assert_eq!(tree.read("proc/sys/net/ipv4/tcp_mem"), "100 200 300000");
    let memory = tree.0.join("proc/sys/net/ipv4/tcp_mem");
    after.insert(memory.clone(), before[&memory].clone());
    assert_eq!(after, before);
    assert!(good(&tree.run(&["undo"])).contains("nothing was changed by"));
}

#[test]
fn after_a_reboot_the_boot_unit_and_undo_go_on_from_the_record() {
    let tree = Tree::new();
    good(&tree.run(&["apply", "--yes"]));
    // sysctl.d has been applied, /sys is as it came, and the interrupts have other numbers.
    tree.write(HUGE, "always\n");
    tree.write("proc/irq/41/smp_affinity_list", "0-3\n");
    good(&tree.run(&["apply", "--yes"]));
    assert_eq!(tree.read(HUGE), "madvise");
    assert!(tree.read(SYSCTL).contains("net.core.somaxconn = 16384"));
    tree.write(HUGE, "always\n");
    good(&tree.run(&["undo"]));
    assert_eq!(tree.read(HUGE), "always");
    assert_eq!(tree.read("proc/sys/net/core/somaxconn"), "4096");
    assert!(!tree.has(SYSCTL) && !tree.has(BOOT) && !tree.has(RECORD));
}

#[test]
fn more_sessions_later_keep_the_first_value_as_the_way_back() {
    let tree = Tree::new();
    good(&tree.run(&["apply", "--yes", "--only", "network,limits"]));
    good(&tree.run(&[
        "apply",
        "--yes",
        "--only",
        "network,limits",
        "--sessions",
        "1000000",
    ]));
    assert_eq!(
        tree.read("proc/sys/net/ipv4/tcp_mem"),
        "100 2000000 2000000"
    );
    assert!(
        tree.read(SYSCTL).contains("net.core.somaxconn"),
        "{}",
        tree.read(SYSCTL)
    );
    assert!(!tree.has(BOOT), "there is nothing to do at boot");
    good(&tree.run(&["undo"]));
    assert_eq!(tree.read("proc/sys/net/ipv4/tcp_mem"), "100 200 300000");
    assert_eq!(tree.read("proc/sys/fs/nr_open"), "1048576");
}

#[test]
fn what_somebody_else_has_changed_since_is_left_and_said() {
    let tree = Tree::new();
    good(&tree.run(&["apply", "--yes", "--only", "network"]));
    tree.write("proc/sys/net/core/somaxconn", "30000\n");
    tree.write(SYSCTL, "net.core.somaxconn = 30000\n");
    let said = good(&tree.run(&["undo"]));
    assert_eq!(tree.read("proc/sys/net/core/somaxconn"), "30000");
    assert_eq!(tree.read(SYSCTL), "net.core.somaxconn = 30000");
    assert!(
        said.matches("somebody has changed it since").count() == 2,
        "{said}"
    );
}

#[test]
fn what_fails_half_way_is_taken_back() {
    let tree = Tree::new();
    good(&tree.run(&["apply", "--yes", "--only", "limits"]));
    // A map of users is written once: the kernel answers EPERM, which says nothing of the value.
    tree.refuse_a_value();
    let before = tree.files();
    let more = ["apply", "--yes", "--sessions", "2000000"];
    let said = bad(&tree.run(&more));
    assert!(
        said.contains("somaxconn: ") && said.contains("what had been changed was taken back"),
        "{said}"
    );
    assert_eq!(tree.files(), before);
}

/// A program that ends the one that calls it is in the middle: after the values, before the files.
#[test]
fn an_apply_that_was_ended_half_way_can_be_undone_and_gone_on_with() {
    for go_on in [false, true] {
        let tree = Tree::new();
        let memory = tree.0.join("proc/sys/net/ipv4/tcp_mem");
        fs::write(memory, "100 200 300000\n").expect("a file");
        let before = tree.files();
        let only = "limits,network,interrupts";
        good(&tree.run(&["apply", "--yes", "--only", only]));
        let first = tree.read(SYSCTL);
        tree.write("ethtool/eth0", "Combined: 4\n");
        let programs = tree.0.with_extension("programs");
        fs::create_dir_all(&programs).expect("a folder");
        let fake = |text: &str| {
            let path = programs.join("ethtool");
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its owner");
        };
        let paths = std::env::var("PATH").expect("a PATH");
        let run = |words: &[&str]| {
            let mut command = tree.command(words);
            command.env("PATH", format!("{}:{paths}", programs.display()));
            command.output().expect("it runs")
        };
        fake("kill -9 $PPID");
        let more = ["apply", "--yes", "--only", only, "--sessions", "2000000"];
        assert_eq!(run(&more).status.code(), None);
        assert_eq!(
            tree.read("proc/sys/net/ipv4/tcp_mem"),
            "100 4000000 4000000"
        );
        assert_eq!(tree.read(SYSCTL), first);
        fake("exit 0");
        if go_on {
            good(&run(&more));
            assert!(tree.read(SYSCTL).contains("100 4000000 4000000"));
            assert!(!tree.read(RECORD).contains("earlier"));
        } else {
            // Of those that it had not come to.
            tree.write("proc/sys/fs/nr_open", "1048576\n");
        }
        tree.write(
            "etc/sysctl.d/90-online-status.conf.online-status-new",
            "half",
        );
        let said = good(&run(&["undo"]));
        assert!(!said.contains("somebody"), "{said}");
        fs::remove_file(tree.0.join("ethtool/eth0")).expect("it was written");
        fs::remove_dir_all(programs).expect("it was made");
        assert_eq!(tree.files(), before);
    }
}

#[test]
fn a_card_that_is_gone_keeps_nothing_from_being_undone() {
    let tree = Tree::new();
    let run = r#"{"what":{"run":{"words":["ethtool","-L","eth9","combined","4"],
        "undo":["ethtool","-L","eth9","combined","2"]}},"why":"","source":""}"#;
    tree.write(RECORD, &format!(r#"{{"changes":[{run}],"files":{{}}}}"#));
    assert!(good(&tree.run(&["undo"])).contains("eth9: this host does not have it any more"));
    assert!(!tree.has(RECORD));
}

#[test]
fn a_file_that_is_not_ours_is_neither_overwritten_nor_removed() {
    const DROP_IN: &str =
        "etc/systemd/system/online-status-edge@.service.d/50-online-status-tuning.conf";
    const LINK: &str = "etc/systemd/system/multi-user.target.wants/online-status-tuning.service";
    for path in [SYSCTL, DROP_IN, BOOT, LINK] {
        let tree = Tree::new();
        tree.write(path, "vm.swappiness = 1\n");
        let before = tree.files();
        let said = bad(&tree.run(&["apply", "--yes"]));
        assert!(
            said.contains("nothing was changed") && said.contains(&format!("/{path}: ")),
            "{said}"
        );
        assert!(said.contains("Move it to another name"), "{said}");
        let shown = good(&tree.run(&["apply"]));
        assert!(shown.contains("--yes changes nothing"), "{shown}");
        good(&tree.run(&["undo"]));
        assert_eq!(tree.files(), before);
    }
    // One of an administrator that is a link, to nothing.
    let tree = Tree::new();
    fs::create_dir_all(tree.0.join("etc/sysctl.d")).expect("a folder");
    std::os::unix::fs::symlink("/nowhere", tree.0.join(SYSCTL)).expect("a link");
    assert!(bad(&tree.run(&["apply", "--yes"])).contains("no plain file"));
    assert!(fs::symlink_metadata(tree.0.join(SYSCTL)).is_ok());
}

#[test]
fn a_file_of_ours_that_somebody_has_changed_is_left_and_stops_what_would_overwrite_it() {
    let tree = Tree::new();
    good(&tree.run(&["apply", "--yes"]));
    let own = tree.read(SYSCTL) + "\nvm.swappiness = 1\n";
    tree.write(SYSCTL, &own);
    // As at boot: there is nothing new to write.
    tree.write(HUGE, "always\n");
    good(&tree.run(&["apply", "--yes"]));
    assert_eq!(tree.read(SYSCTL), own.trim());
    let before = tree.files();
    let said = bad(&tree.run(&["apply", "--yes", "--sessions", "1000000"]));
    assert!(said.contains("somebody has changed it since"), "{said}");
    assert_eq!(tree.files(), before);
    // The record is gone, and the file says who made it.
    fs::remove_file(tree.0.join(RECORD)).expect("a record");
    let said = bad(&tree.run(&["apply", "--yes", "--sessions", "1000000"]));
    assert!(said.contains("--out-script has made it"), "{said}");
}

#[test]
fn the_drop_in_of_a_unit_that_is_gone_is_taken_back_too() {
    const OTHER: &str = "usr/lib/systemd/system/online-status-edge.service";
    let tree = Tree::new();
    tree.write(OTHER, "[Service]\nLimitNOFILE=65536\n");
    good(&tree.run(&["apply", "--yes", "--only", "limits"]));
    fs::remove_file(tree.0.join(OTHER)).expect("it was installed");
    good(&tree.run(&["apply", "--yes", "--only", "limits,memory"]));
    good(&tree.run(&["undo"]));
    assert!(!tree.has("etc/systemd/system/online-status-edge.service.d"));
}

#[test]
fn one_at_a_time_changes_a_host() {
    let tree = Tree::new();
    let folder = tree.0.join(RECORD);
    let folder = folder.parent().expect("a folder");
    fs::create_dir_all(folder).expect("a folder");
    let held = fs::File::open(folder).expect("a folder");
    held.try_lock().expect("nobody has it");
    for words in [&["undo"][..], &["apply", "--yes"]] {
        let said = bad(&tree.run(words));
        assert!(said.contains("another online-status-tuning"), "{said}");
    }
    drop(held);
    good(&tree.run(&["undo"]));
    assert!(!folder.exists());
}

#[test]
fn what_the_kernel_does_not_take_is_left_out_and_said() {
    let tree = Tree::new();
    let path = tree.0.join("proc/sys/net/core/somaxconn");
    fs::remove_file(&path).expect("it was there");
    // A value of the program's own process, which is at most 1000.
    std::os::unix::fs::symlink("/proc/self/oom_score_adj", &path).expect("a link");
    let said = good(&tree.run(&["apply", "--yes", "--only", "network,memory"]));
    assert!(
        said.contains("left as it was: /proc/sys/net/core/somaxconn")
            && said.contains("Invalid argument"),
        "{said}"
    );
    assert!(
        !tree.read(SYSCTL).contains("somaxconn")
            && tree.read(SYSCTL).contains("vm.swappiness = 10")
    );
    assert!(!tree.read(RECORD).contains("somaxconn"));
}

#[test]
fn without_a_folder_for_the_files_nothing_is_changed() {
    let tree = Tree::new();
    // As a read-only /etc: nothing can be made below it.
    tree.write("etc", "");
    let before = tree.files();
    let said = bad(&tree.run(&["apply", "--yes"]));
    assert_eq!(tree.files(), before);
    assert!(
        said.contains("nothing was changed") && said.contains(&format!("/{SYSCTL}")),
        "{said}"
    );
    assert!(said.contains("--only"), "{said}");
}

/// A script of `--out-script`, beside its tree, and a folder of programs that come first.
struct Script {
    path: PathBuf,
    programs: PathBuf,
}

impl Script {
    fn new(tree: &Tree) -> Self {
        let script = Self {
            path: tree.0.with_extension("sh"),
            programs: tree.0.with_extension("programs"),
        };
        good(&script.write(tree));
        script
    }

    fn write(&self, tree: &Tree) -> Output {
        tree.run(&["apply", "--out-script", self.path.to_str().expect("UTF-8")])
    }

    fn run(&self, tree: &Tree, what: &str) -> Output {
        let paths = std::env::var("PATH").expect("a PATH");
        let mut command = Command::new("sh");
        command.arg(&self.path).arg(what).env("ROOT", &tree.0);
        command.env("PATH", format!("{}:{paths}", self.programs.display()));
        command.output().expect("a shell")
    }

    fn program(&self, name: &str, text: &str) {
        fs::create_dir_all(&self.programs).expect("a folder");
        let path = self.programs.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its owner");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // What is left is in the temporary folder.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir_all(&self.programs);
    }
}

#[test]
fn the_script_makes_the_same_changes_and_takes_them_back() {
    let (tree, other) = (Tree::new(), Tree::new());
    let memory = tree.0.join("proc/sys/net/ipv4/tcp_mem");
    fs::write(memory, "100 200 300000\n").expect("a file");
    let before = tree.files();
    let script = Script::new(&tree);
    assert_eq!(tree.files(), before);
    match Command::new("shellcheck").arg(&script.path).output() {
        Ok(checked) => drop(good(&checked)),
        Err(_) => println!("shellcheck is not installed: the script was not checked by it"),
    }
    for _ in 0..2 {
        good(&script.run(&tree, "apply"));
        good(&other.run(&["apply", "--yes"]));
        let mut expected = other.files();
        expected.remove(&other.0.join(RECORD));
        let relative = |tree: &Tree, files: BTreeMap<PathBuf, Vec<u8>>| {
            let files = files.into_iter();
            let file = |(path, text): (PathBuf, _)| {
                (path.strip_prefix(&tree.0).expect("in it").to_owned(), text)
            };
            files.map(file).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(relative(&tree, tree.files()), relative(&other, expected));
    }
    good(&script.run(&tree, "undo"));
    assert_eq!(tree.files(), before);
    let again = script.run(&tree, "undo");
    assert!(good(&again).is_empty());
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(said.contains("nothing of this script is here"), "{said}");
}

#[test]
fn a_script_that_cannot_do_all_of_it_does_nothing_and_says_why() {
    type Harm = fn(&Tree);
    let harms: [(Harm, &str); 6] = [
        // As a read-only /etc: nothing can be made below it.
        (|tree| tree.write("etc", ""), "/etc/sysctl.d cannot be made"),
        (
            |tree| fs::remove_file(tree.0.join(HUGE)).expect("it was there"),
            "/sys/kernel/mm/transparent_hugepage/enabled cannot be written",
        ),
        (
            |tree| tree.write("proc/sys/vm/swappiness", "20\n"),
            "/proc/sys/vm/swappiness is 20, and was 60 when this script was written",
        ),
        (
            |tree| tree.write(SYSCTL, "vm.swappiness = 1\n"),
            "90-online-status.conf is there, and not of this script",
        ),
        (
            |tree| {
                tree.write(
                    "etc/systemd/system/multi-user.target.wants/online-status-tuning.service",
                    "",
                );
            },
            "online-status-tuning.service is there, and not of this script",
        ),
        (
            |tree| {
                fs::create_dir_all(
                    tree.0
                        .join("etc/systemd/system/online-status-tuning.service.online-status-new"),
                )
                .expect("a folder");
            },
            "online-status-tuning.service cannot be written",
        ),
    ];
    for (harm, part) in harms {
        let tree = Tree::new();
        let script = Script::new(&tree);
        harm(&tree);
        let before = tree.files();
        let said = bad(&script.run(&tree, "apply"));
        assert!(
            said.contains("nothing was changed") && said.contains(part),
            "{part}: {said}"
        );
        assert_eq!(tree.files(), before, "{part}");
    }
    // Neither is anything taken back that cannot be.
    let tree = Tree::new();
    let script = Script::new(&tree);
    good(&script.run(&tree, "apply"));
    let before = tree.files();
    let folder = tree.0.join(format!("{SYSCTL}.online-status-new"));
    fs::create_dir_all(&folder).expect("a folder");
    let said = bad(&script.run(&tree, "undo"));
    assert!(
        said.contains("90-online-status.conf cannot be removed"),
        "{said}"
    );
    assert_eq!(tree.files(), before);
}

#[test]
fn a_script_that_fails_or_is_ended_half_way_takes_back_what_it_did() {
    for (text, part) in [
        ("exit 1", "ethtool -L eth0 combined 4"),
        ("kill -TERM $PPID", "it was interrupted"),
    ] {
        let tree = Tree::new();
        tree.write("ethtool/eth0", "Combined: 4\n");
        let memory = tree.0.join("proc/sys/net/ipv4/tcp_mem");
        fs::write(memory, "100 200 300000\n").expect("a file");
        let before = tree.files();
        let script = Script::new(&tree);
        let calls = tree.0.with_extension("calls");
        script.program(
            "ethtool",
            &format!(
                "cat {}/proc/sys/net/core/somaxconn >>{}\n{text}",
                tree.0.display(),
                calls.display()
            ),
        );
        let said = bad(&script.run(&tree, "apply"));
        assert!(
            said.contains(part) && said.contains("what had been changed is taken back"),
            "{said}"
        );
        assert!(!said.contains("could not be taken back"), "{said}");
        assert_eq!(tree.files(), before);
        assert!(!tree.has("etc/sysctl.d"), "folders");
        let called = fs::read_to_string(&calls).expect("it was called");
        assert!(called.starts_with("16384\n"), "behind the values: {called}");
        fs::remove_file(calls).expect("it was written");
    }
    // A kernel that takes a parameter's place and not its value.
    let tree = Tree::new();
    tree.refuse_a_value();
    let before = tree.files();
    let script = Script::new(&tree);
    let said = bad(&script.run(&tree, "apply"));
    assert!(
        said.contains("somaxconn: ") && said.contains("what had been changed is taken back"),
        "{said}"
    );
    assert_eq!(tree.files(), before);
}

#[test]
fn the_script_leaves_what_somebody_has_changed_since_and_says_so() {
    let tree = Tree::new();
    let script = Script::new(&tree);
    good(&script.run(&tree, "apply"));
    tree.write("proc/sys/net/core/somaxconn", "30000\n");
    tree.write(SYSCTL, "net.core.somaxconn = 30000\n");
    let output = script.run(&tree, "undo");
    good(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        said.matches("somebody has changed it since").count(),
        2,
        "{said}"
    );
    assert_eq!(tree.read("proc/sys/net/core/somaxconn"), "30000");
    assert_eq!(tree.read(SYSCTL), "net.core.somaxconn = 30000");
    assert_eq!(tree.read("proc/sys/vm/swappiness"), "60");
}

#[test]
fn the_unit_of_a_script_makes_its_values_at_boot_and_both_can_be_undone() {
    let tree = Tree::new();
    tree.write("proc/sys/net/netfilter/nf_conntrack_max", "1000\n");
    let before = tree.files();
    let script = Script::new(&tree);
    good(&script.run(&tree, "apply"));
    let unit = tree.read(BOOT);
    let words = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .expect("a program");
    let words: Vec<&str> = words.split(' ').skip(1).collect();
    tree.write(HUGE, "always\n");
    tree.write("proc/sys/net/netfilter/nf_conntrack_max", "1000\n");
    good(&tree.run(&words));
    assert_eq!(tree.read(HUGE), "madvise");
    assert_eq!(
        tree.read("proc/sys/net/netfilter/nf_conntrack_max"),
        "200000"
    );
    let output = script.run(&tree, "undo");
    good(&output);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("online-status-tuning undo takes it back")
    );
    good(&tree.run(&["undo"]));
    let mut after = tree.files();
    let memory = tree.0.join("proc/sys/net/ipv4/tcp_mem");
    after.insert(memory.clone(), before[&memory].clone());
    assert_eq!(after, before);
}

#[test]
fn out_script_loses_neither_a_file_nor_the_way_back_of_an_earlier_script() {
    let tree = Tree::new();
    let script = Script::new(&tree);
    let first = fs::read(&script.path).expect("a script");
    let write = |text: &str| fs::write(&script.path, text).expect("a file");
    write("#!/bin/sh\necho mine\n");
    assert!(bad(&script.write(&tree)).contains("no script of online-status-tuning: move it away"));
    assert_eq!(
        fs::read(&script.path).expect("a file"),
        b"#!/bin/sh\necho mine\n"
    );
    for before in ["", "#!/bin/sh\n# Tunes this host for 5 sessions\nold\n"] {
        write(before);
        good(&script.write(&tree));
        assert_eq!(fs::read(&script.path).expect("a script"), first);
    }
    // A link stays one, and a folder and a stream are what they are.
    let real = tree.0.with_extension("real.sh");
    fs::rename(&script.path, &real).expect("one folder");
    std::os::unix::fs::symlink(&real, &script.path).expect("a link");
    good(&script.write(&tree));
    assert!(
        fs::symlink_metadata(&script.path)
            .expect("a link")
            .is_symlink()
    );
    assert_eq!(fs::read(&real).expect("a script"), first);
    fs::rename(&real, &script.path).expect("one folder");
    let folder = tree.0.to_str().expect("UTF-8");
    assert!(bad(&tree.run(&["apply", "--out-script", folder])).contains("it is a folder"));
    for stream in ["/dev/stdout", "-"] {
        let output = tree.command(&["apply", "--out-script", stream]);
        let output = { output }.current_dir(&tree.0).output().expect("it runs");
        assert_eq!(output.stdout, first);
        assert!(String::from_utf8_lossy(&output.stderr).contains(" changes; with apply"));
        assert!(!tree.has(stream.trim_start_matches('/')));
    }
    assert!(good(&tree.run(&["undo"])).contains("nothing was changed by"));
    // Where an administrator's file is in its way, it would stop there.
    tree.write(SYSCTL, "vm.swappiness = 1\n");
    assert!(bad(&script.write(&tree)).contains("online-status-tuning has not made it"));
    fs::remove_file(tree.0.join(SYSCTL)).expect("it was written");

    good(&script.run(&tree, "apply"));
    let said = good(&tree.run(&["undo"]));
    assert!(
        said.contains(SYSCTL) && said.contains("a script of --out-script has made them"),
        "{said}"
    );
    assert!(good(&script.write(&tree)).contains("stays as it is"));
    tree.write("proc/sys/net/core/somaxconn", "1\n");
    let more = ["apply", "--yes", "--sessions", "1000000"];
    assert!(bad(&tree.run(&more)).contains("a script of --out-script has made it"));
    let said = bad(&script.write(&tree));
    assert!(
        said.contains("undo of that script") && said.contains(SYSCTL),
        "{said}"
    );
    assert_eq!(fs::read(&script.path).expect("a script"), first);
    tree.write("proc/sys/net/core/somaxconn", "16384\n");
    good(&script.run(&tree, "undo"));
    good(&tree.run(&["apply", "--yes", "--only", "network"]));
    assert!(bad(&script.write(&tree)).contains("changes.json"));
}

#[test]
fn a_damaged_record_and_one_of_a_newer_kind_are_said_and_nothing_is_changed() {
    for (record, part) in [
        ("", "EOF"),
        ("{", "EOF"),
        ("[]", "invalid length"),
        (r#"{"changes":5,"files":{}}"#, "invalid type"),
        (
            r#"{"changes":[{"what":{"run":{"words":[],"undo":[]}},"why":"","source":""}],"files":{}}"#,
            "a program in it has no words",
        ),
        (
            r#"{"changes":[{"what":{"spell":{"path":"/x"}},"why":"","source":""}],"files":{}}"#,
            "unknown variant `spell`",
        ),
    ] {
        let tree = Tree::new();
        tree.write(RECORD, record);
        let before = tree.files();
        for words in [&["undo"][..], &["apply", "--yes"]] {
            let said = bad(&tree.run(words));
            assert!(
                said.contains("changes.json")
                    && said.contains(part)
                    && said.contains("move it away"),
                "{said}"
            );
        }
        let shown = tree.run(&["apply"]);
        assert!(good(&shown).contains("nothing was changed"));
        assert!(String::from_utf8_lossy(&shown.stderr).contains("note: "));
        assert_eq!(tree.files(), before);
    }
}

/// What is written today, which the next release has to read: members may be added.
#[test]
fn the_form_of_the_record_is_pinned_because_another_release_may_take_back_what_this_one_changed() {
    const CHANGES: &str = r#"[
        {"what":{"value":{"path":"/proc/sys/vm/swappiness","before":"60","after":"10","sysctl":"vm.swappiness"}},
         "why":"WHY","source":"SOURCE"},
        {"what":{"value":{"path":"/sys/kernel/mm/transparent_hugepage/enabled","before":"always","after":"madvise","sysctl":null}},
         "why":"WHY","source":"SOURCE"}]"#;
    let tree = Tree::new();
    let before = tree.files();
    good(&tree.run(&["apply", "--yes", "--only", "memory"]));
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let mut written = parse(&tree.read(RECORD));
    for change in written["changes"].as_array_mut().expect("changes") {
        for (member, word) in [("why", "WHY"), ("source", "SOURCE")] {
            assert!(change[member].is_string(), "{change}");
            change[member] = word.into();
        }
    }
    assert_eq!(written["changes"], parse(CHANGES));
    let files: Vec<&String> = written["files"]
        .as_object()
        .expect("files")
        .keys()
        .collect();
    assert_eq!(files, [&format!("/{SYSCTL}"), &format!("/{BOOT}")]);
    // As another release writes it: with a line of a unit, and with what this one does not know.
    written["later"] = true.into();
    written["changes"][0]["later"] = true.into();
    let unit = parse(r#"{"what":{"unit":{"line":"LimitNOFILE=1"}},"why":"","source":""}"#);
    written["changes"]
        .as_array_mut()
        .expect("changes")
        .push(unit);
    tree.write(RECORD, &written.to_string());
    good(&tree.run(&["undo"]));
    assert_eq!(tree.files(), before);
}

#[test]
fn check_makes_a_ring_and_finds_what_is_missing() {
    let tree = Tree::new();
    let output = tree.run(&["check", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let said: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let find = |name: &str| {
        let items = said["items"].as_array().expect("items").iter();
        items
            .clone()
            .find(|item| item["condition"] == name)
            .cloned()
            .expect(name)
    };
    assert_eq!(find("io_uring")["current"], "made one");
    assert_eq!(find("net.core.somaxconn")["passed"], false);
    assert_eq!(find("fs.nr_open")["passed"], true);
    // The unit allows too few, which no session beyond them can do without.
    assert_eq!(
        find("online-status-edge@.service LimitNOFILE")["passed"],
        false
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn capacity_is_what_the_scarcest_thing_allows() {
    let tree = Tree::new();
    tree.write("proc/meminfo", "MemTotal: 1 kB\nMemAvailable: 8388608 kB\n");
    tree.write("proc/sys/net/ipv4/tcp_mem", "100\t200\t300000\n");
    let said = bad_with_output(&tree.run(&["capacity", "--sessions", "1000"]));
    assert!(
        said.contains(
            "this host holds 100 sessions, fewer than wished (1000); the bound is net.ipv4.tcp_mem"
        ),
        "{said}"
    );
    let said = good(&tree.run(&["capacity", "--sessions", "100", "--proxies", "1"]));
    assert!(said.contains("as wished"), "{said}");
}

#[test]
fn capacity_counts_with_what_the_services_get_and_says_which_it_took() {
    let tree = Tree::new();
    let unit = "online-status-edge@.service";
    let capacity = |tree: &Tree| {
        let output = tree.run(&["capacity", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let said: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let rows = said["resources"].as_array().expect("rows").clone();
        move |name: &str| {
            let row = rows.iter().find(|row| row["resource"] == name);
            row.map(|row| {
                (
                    row["has"].as_str().expect("text").to_owned(),
                    row["sessions"].clone(),
                )
            })
        }
    };
    let name = format!("LimitNOFILE of {unit}");
    let shell = "limit of open files of this shell";
    let row = capacity(&tree);
    let (has, sessions) = row(&name).expect("a unit");
    assert_eq!(has, format!("65536, /usr/lib/systemd/system/{unit}"));
    assert_eq!(sessions, (65_536 - 1_000) / 11 * 10);
    assert!(row(shell).is_none());
    // systemd takes drop-ins by name, whichever folder they are in; what it cannot read counts for nothing.
    let drop_ins = format!("systemd/system/{unit}.d");
    tree.write(
        &format!("etc/{drop_ins}/20-x.conf"),
        "[Service]\nLimitNOFILE=1\n",
    );
    tree.write(
        &format!("usr/lib/{drop_ins}/30-x.conf"),
        "[Service]\nLimitNOFILE = 1024:22000\nLimitNOFILE=many\n[Install]\nLimitNOFILE=7\n",
    );
    tree.write(
        &format!("etc/{drop_ins}/90-x.swp"),
        "[Service]\nLimitNOFILE=2\n",
    );
    let (has, _) = capacity(&tree)(&name).expect("a unit");
    assert_eq!(has, format!("22000, /usr/lib/{drop_ins}/30-x.conf"));
    tree.write(
        &format!("run/{drop_ins}/30-x.conf"),
        "[Service]\nLimitNOFILE=\n",
    );
    let (has, _) = capacity(&tree)(&name).expect("a unit");
    assert_eq!(has, "524288, systemd's default");

    tree.write(
        "proc/meminfo",
        "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
    );
    tree.write("proc/self/cgroup", "0::/user.slice\n");
    tree.write("sys/fs/cgroup/user.slice/memory.max", "1048576\n");
    let (has, _) = capacity(&tree)("memory").expect("memory");
    assert!(has.starts_with("8192 MiB, 25 %"), "{has}");
    tree.write(
        &format!("etc/{drop_ins}/60-x.conf"),
        "[Service]\nMemoryMax=25%\n",
    );
    let (has, _) = capacity(&tree)("memory").expect("memory");
    assert!(
        has.starts_with(&format!("4095 MiB, MemoryMax of {unit}")),
        "{has}"
    );

    // Masked is not installed.
    tree.write(&format!("etc/systemd/system/{unit}"), "");
    let row = capacity(&tree);
    assert!(row(&name).is_none());
    assert!(
        row(shell)
            .expect("the shell's")
            .0
            .ends_with("as no unit of the edge is installed")
    );
    assert!(
        row("memory")
            .expect("memory")
            .0
            .starts_with("1 MiB, /sys/fs/cgroup/user.slice")
    );
}

#[test]
fn more_sessions_than_a_host_can_hold_are_said_to_be_that() {
    let tree = Tree::new();
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    for (words, most) in [
        (
            ["check", "--sessions", "18446744073709551615"],
            "1..=100000000",
        ),
        (["apply", "--sessions", "100000001"], "1..=100000000"),
        (["apply", "--sessions", "0"], "1..=100000000"),
        (
            ["capacity", "--sessions", "100000000001"],
            "1..=100000000000",
        ),
    ] {
        let output = tree.run(&words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("--sessions") && said.contains(most), "{said}");
    }
    tree.write(
        "proc/meminfo",
        "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n",
    );
    tree.write("proc/sys/net/ipv4/tcp_mem", "100\t200000\t300000\n");
    // A GiB holds 100,663 sessions, and two, with nothing else there, 201,326.
    let said = text(&tree.run(&["check", "--sessions", "1000000"]));
    assert!(
        said.contains("1000000 take 10 hosts like this one"),
        "{said}"
    );
    assert!(!text(&tree.run(&["check"])).contains("hosts like this one"));
    let before = tree.files();
    let script = tree.0.with_extension("sh");
    for more in [
        "--yes",
        "--only=network",
        &format!("--out-script={}", script.display()),
    ] {
        let said = bad(&tree.run(&["apply", "--sessions", "1000000", more]));
        assert!(
            said.contains("choose --sessions 201326 at most; 1000000 take 5 hosts"),
            "{said}"
        );
    }
    assert!(tree.files() == before && !script.exists());
    let said = bad_with_output(&tree.run(&["capacity", "--sessions", "100000000000"]));
    for line in [
        "memory: it holds 100663 sessions here; 100000000000 take 993414 hosts like this one, or more memory",
        "net.ipv4.tcp_mem, pressure: online-status-tuning apply --sessions 100663 raises it",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let said = good(&tree.run(&["capacity", "--sessions", "50000"]));
    assert!(
        said.ends_with(
            "as wished (50000); the bound is LimitNOFILE of online-status-edge@.service\n"
        ),
        "{said}"
    );
}

/// The files that `check` and `apply` name for a value after a reboot.
fn after_a_reboot(tree: &Tree) -> Vec<String> {
    let output = tree.run(&["check", "--json"]);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let items = said["items"].as_array().expect("items");
    let text = |item: &serde_json::Value| {
        let name = item["condition"]
            .as_str()?
            .strip_suffix(" after a reboot")?;
        Some(format!(
            "{name} = {} {}",
            item["current"].as_str()?,
            item["passed"]
        ))
    };
    items.iter().filter_map(text).collect()
}

#[test]
fn a_later_file_of_sysctl_d_is_named_as_what_wins_after_a_reboot() {
    let tree = Tree::new();
    assert_eq!(after_a_reboot(&tree), [""; 0]);
    // Earlier ones lose, and of two with one name that of /etc counts; so it does when it is empty.
    tree.write("usr/lib/sysctl.d/50-x.conf", "net.core.somaxconn = 128\n");
    tree.write("usr/lib/sysctl.d/99-y.conf", "net.core.somaxconn = 129\n");
    tree.write("etc/sysctl.d/99-y.conf", "");
    // A pattern loses against a name.
    tree.write("etc/sysctl.d/99-z.conf", "net.core.* = 3\n");
    tree.write("etc/sysctl.d/99-z.off", "net.core.somaxconn = 4\n");
    assert_eq!(after_a_reboot(&tree), [""; 0]);
    tree.write(
        "run/sysctl.d/95-x.conf",
        "# by hand\n-net/core/somaxconn = 1024\nvm.swappiness=5\n",
    );
    tree.write("etc/sysctl.d/99-a.conf", "-net.ipv4.tcp_mem\n");
    let expected = [
        "net.core.somaxconn = 1024 (/run/sysctl.d/95-x.conf) false",
        "net.ipv4.tcp_mem = the kernel's own (/etc/sysctl.d/99-a.conf) false",
        "vm.swappiness = 5 (/run/sysctl.d/95-x.conf) true",
    ];
    assert_eq!(after_a_reboot(&tree), expected);
    // It is so behind the change as before it.
    for words in [&["apply"][..], &["apply", "--yes"], &["apply"]] {
        let said = good(&tree.run(words));
        for part in [
            "for you to do: net.core.somaxconn after a reboot: net.core.somaxconn = 16384 in /run/sysctl.d/95-x.conf, where it is 1024",
            "vm.swappiness after a reboot: 5 (/run/sysctl.d/95-x.conf)",
            "wins over 90-online-status.conf",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(after_a_reboot(&tree), expected);
    }
    // Without systemd sysctl.conf is the last; with it, where a link leads to it.
    tree.write("etc/sysctl.conf", "net.core.somaxconn = 7\n");
    assert!(after_a_reboot(&tree)[0].contains("= 7 (/etc/sysctl.conf)"));
    tree.write("usr/lib/systemd/systemd-sysctl", "");
    assert!(after_a_reboot(&tree)[0].contains("= 1024 ("));
    let link = tree.0.join("etc/sysctl.d/99-sysctl.conf");
    std::os::unix::fs::symlink("../sysctl.conf", link).expect("a link");
    assert!(after_a_reboot(&tree)[0].contains("= 7 (/etc/sysctl.d/99-sysctl.conf)"));
}

#[test]
fn what_the_host_has_now_and_a_reboot_takes_away_is_named() {
    let tree = Tree::new();
    tree.write("proc/sys/net/core/somaxconn", "65535\n");
    tree.write("usr/lib/sysctl.d/10-x.conf", "net.core.somaxconn = 128\n");
    assert_eq!(
        after_a_reboot(&tree),
        ["net.core.somaxconn = 128 (/usr/lib/sysctl.d/10-x.conf) false"]
    );
}

#[test]
fn the_boot_unit_leaves_kernel_parameters_to_sysctl_d_but_for_those_of_modules() {
    let tree = Tree::new();
    let (tracked, backlog) = (
        "proc/sys/net/netfilter/nf_conntrack_max",
        "proc/sys/net/core/somaxconn",
    );
    tree.write(tracked, "1000\n");
    good(&tree.run(&["apply", "--yes", "--only", "network"]));
    assert!(tree.has(BOOT), "a module comes after sysctl.d was read");
    let unit = tree.read(BOOT);
    let words = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .expect("a program");
    let words: Vec<&str> = words.split(' ').skip(1).collect();
    tree.write(tracked, "1000\n");
    tree.write(backlog, "1024\n");
    good(&tree.run(&words));
    assert_eq!(tree.read(tracked), "200000");
    assert_eq!(tree.read(backlog), "1024", "a file of sysctl.d has won");
    tree.write(tracked, "1000\n");
    tree.write(
        "etc/sysctl.d/95-x.conf",
        "net.netfilter.nf_conntrack_max = 1000\n",
    );
    good(&tree.run(&words));
    assert_eq!(tree.read(tracked), "1000");
    good(&tree.run(&["undo"]));
    assert!(!tree.has(SYSCTL) && !tree.has(BOOT) && !tree.has(RECORD));
}

#[test]
fn a_later_drop_in_that_would_win_is_named_and_none_is_made_in_vain() {
    let tree = Tree::new();
    let folder = "etc/systemd/system/online-status-edge@.service.d";
    let later = format!("{folder}/60-x.conf");
    tree.write(&later, "[Service]\nLimitNOFILE=1000\nTasksMax=20\n");
    let output = tree.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let advice =
        format!("LimitNOFILE=111000 in /{later}, which wins over 50-online-status-tuning.conf");
    assert!(said.contains(&advice), "{said}");
    assert!(said.contains(&format!("20 (/{later})")), "{said}");
    let said = good(&tree.run(&["apply", "--yes"]));
    assert!(
        said.contains(&format!(
            "for you to do: online-status-edge@.service LimitNOFILE: {advice}"
        )),
        "{said}"
    );
    assert!(!tree.has(&format!("{folder}/50-online-status-tuning.conf")));
}

fn bad_with_output(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_layout_keeps_a_core_from_sessions_where_there_are_enough() {
    let tree = Tree::new();
    let said = good(&tree.run(&["layout"]));
    assert!(
        said.contains("ONLINE_STATUS_SERVER_CORES=3") && said.contains("everything else: 3"),
        "{said}"
    );
    // Two siblings a core, numbered one after the other.
    for cpu in 0..4 {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        tree.write(&format!("{folder}/core_id"), &(cpu / 2).to_string());
        tree.write(&format!("{folder}/physical_package_id"), "0");
    }
    let said = good(&tree.run(&["layout"]));
    assert!(
        said.contains("ONLINE_STATUS_SERVER_CORES=2") && said.contains("CPUAffinity=0 2"),
        "{said}"
    );
}

/// Values of the kernel itself, in a network namespace that is the test's own, with /etc and /var of a
/// folder over the host's.
#[test]
fn the_kernels_own_values_are_changed_read_back_and_undone() {
    let script = r#"
        set -eu
        for folder in /etc/sysctl.d /etc/systemd/system /var/lib; do mount -t tmpfs none $folder; done
        value() { cat /proc/sys/net/core/somaxconn; }
        before=$(value)
        "$PROGRAM" apply --yes --only network
        [ "$(value)" = 16384 ]
        grep -q 'net.core.somaxconn = 16384' /etc/sysctl.d/90-online-status.conf
        mount -o remount,ro /etc/sysctl.d
        if "$PROGRAM" undo; then exit 1; fi
        [ "$(value)" = 16384 ]
        mount -o remount,rw /etc/sysctl.d
        "$PROGRAM" undo
        [ "$(value)" = "$before" ]
        [ -z "$(ls /etc/sysctl.d)$(ls /var/lib)" ]
        mount -o remount,ro /etc/sysctl.d
        if "$PROGRAM" apply --yes --only network; then exit 1; fi
        [ "$(value)" = "$before" ]
        "$PROGRAM" apply --only network --out-script /var/lib/script
        if sh /var/lib/script apply; then exit 1; fi
        [ "$(value)" = "$before" ]
        mount -o remount,rw,nr_inodes=1 /etc/sysctl.d
        if "$PROGRAM" apply --yes --only network; then exit 1; fi
        if sh /var/lib/script apply; then exit 1; fi
        [ "$(value)" = "$before" ]
        mount -o remount,nr_inodes=100 /etc/sysctl.d
        sh /var/lib/script apply
        [ "$(value)" = 16384 ]
        mount -o remount,ro /etc/sysctl.d
        if sh /var/lib/script undo; then exit 1; fi
        [ "$(value)" = 16384 ]
        mount -o remount,rw /etc/sysctl.d
        sh /var/lib/script undo
        [ "$(value)" = "$before" ]
        [ -z "$(ls /etc/sysctl.d)" ]
        # What systemd makes of sysctl.d is what check says.
        boot() {
          echo "$2" >"/etc/sysctl.d/$1"
          "$PROGRAM" apply --yes --only network
          echo 4096 >/proc/sys/net/core/somaxconn
          /usr/lib/systemd/systemd-sysctl
          "$PROGRAM" check >/var/lib/said || true
          "$PROGRAM" undo
          rm "/etc/sysctl.d/$1"
        }
        wins() {
          boot "$1" "$2"
          grep "somaxconn after a reboot" /var/lib/said | grep -F "$3 (/etc/sysctl.d/$1)"
        }
        loses() {
          boot "$1" "$2"
          grep "^net.core.somaxconn .* 16384 .* yes" /var/lib/said
          if grep "somaxconn after a reboot" /var/lib/said; then exit 1; fi
        }
        if [ -x /usr/lib/systemd/systemd-sysctl ]; then
          wins 95-x.conf '-net/core/somaxconn = 1024' 1024
          grep "^net.core.somaxconn .* 1024 .* no" /var/lib/said
          wins 90-onlinf.conf 'net.core.somaxconn=1025' 1025
          grep "^net.core.somaxconn .* 1025 .* no" /var/lib/said
          wins 95-x.conf -net.core.somaxconn "the kernel's own"
          grep "^net.core.somaxconn .* 4096 .* no" /var/lib/said
          loses 89-x.conf net.core.somaxconn=1026
          loses 95-x.conf 'net.core.somaxc*=1027'
        fi
        echo all of it
    "#;
    let words = ["--net", "--mount", "sh", "-c", script];
    let done = Command::new("unshare")
        .args(words)
        .env("PROGRAM", PROGRAM)
        .output()
        .expect("unshare of util-linux");
    let said = String::from_utf8_lossy(&done.stderr);
    if said.contains("Operation not permitted") && !done.status.success() && done.stdout.is_empty()
    {
        println!("skipped: this user may not make namespaces");
        return;
    }
    assert_eq!(said.matches("Read-only file system").count(), 4, "{said}");
    assert_eq!(said.matches("o room to write").count(), 2, "{said}");
    assert!(
        said.contains("90-online-status.conf cannot be written"),
        "{said}"
    );
    assert!(
        said.contains("90-online-status.conf cannot be removed"),
        "{said}"
    );
    assert!(said.contains("nothing was taken back"), "{said}");
    assert!(good(&done).ends_with("all of it\n"));
}
