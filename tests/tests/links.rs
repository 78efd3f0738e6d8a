//! Links between real processes: who gets in and who does not, and what a data directory survives.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use starling_tests::compare::Value;
use starling_tests::host::Host;
use starling_tests::process::fresh_dir;
use starling_tests::starling::{Authority, Starling, StarlingConfig, binary, equal_digests, meet};
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs, stays};

fn alone() -> StarlingConfig {
    StarlingConfig { more: String::new(), ..StarlingConfig::default() }
}

/// A node that joins these.
fn joining(others: &[&Starling]) -> StarlingConfig {
    StarlingConfig { join: others.iter().map(|n| n.host.quic()).collect(), ..alone() }
}

fn value_is(node: &Starling, key: &str, wanted: &str) -> anyhow::Result<()> {
    let found = node.entry("t", key)?.map(|(value, _)| value);
    same(&format!("{key} at {}", node.name), found, Some(Value::from(wanted)))
}

#[test]
fn three_nodes_meet_without_certificates_on_loopback_and_share_what_is_written() {
    limited(secs(90), || {
        let n1 = Starling::start("n1", &Host::loopback(), &alone());
        n1.set("t", "before", "1", None).expect("set");
        let n2 = Starling::start("n2", &Host::loopback(), &joining(&[&n1]));
        // It knows n2 only, and finds n1 by it.
        let n3 = Starling::start("n3", &Host::loopback(), &joining(&[&n2]));
        meet(&[&n1, &n2, &n3]);
        n3.set("t", "after", "2", None).expect("set");
        for node in [&n1, &n2, &n3] {
            eventually(PATIENCE, "everything is everywhere", || {
                value_is(node, "before", "1")?;
                value_is(node, "after", "2")
            });
        }
        equal_digests(&[&n1, &n2, &n3]).expect("equal");
    });
}

#[test]
fn nodes_with_certificates_of_one_authority_meet() {
    limited(secs(90), || {
        let authority = Authority::new();
        let (a, b) = (Host::loopback(), Host::loopback());
        let with = |name: &str, host: &Host, config| StarlingConfig {
            certificates: Some(authority.issue(name, host)),
            ..config
        };
        let n1 = Starling::start("n1", &a, &with("n1", &a, alone()));
        let n2 = Starling::start("n2", &b, &with("n2", &b, joining(&[&n1])));
        meet(&[&n1, &n2]);
        assert_eq!(n1.get("/v1/status").expect("status")["tls"], true);
        n1.set("t", "k", "v", None).expect("set");
        eventually(PATIENCE, "the other has it", || value_is(&n2, "k", "v"));
    });
}

/// Fails as soon as one of the nodes has a link or a cell of the other.
fn apart(n1: &Starling, n2: &Starling) -> anyhow::Result<()> {
    for node in [n1, n2] {
        same("links", node.get("/v1/status")?["links"].as_u64(), Some(0))?;
    }
    same("the other's entry", n2.entry("t", "k")?, None)
}

/// Two nodes that must never meet: what the first one logs about the second.
fn strangers(
    first: &StarlingConfig,
    second: impl Fn(StarlingConfig) -> StarlingConfig,
    hosts: [Host; 2],
) -> [String; 2] {
    let [a, b] = hosts;
    let mut n1 = Starling::start("n1", &a, first);
    n1.set("t", "k", "v", None).expect("set");
    let mut n2 = Starling::start("n2", &b, &second(joining(&[&n1])));
    stays(secs(4), "they are apart", || apart(&n1, &n2));
    [n1.process().log(), n2.process().log()]
}

#[test]
fn a_node_with_a_certificate_of_another_authority_is_refused_and_told_so() {
    limited(secs(90), || {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let (a, b) = (Host::loopback(), Host::loopback());
        let first = StarlingConfig { certificates: Some(ours.issue("n1", &a)), ..alone() };
        let second = |config| StarlingConfig { certificates: Some(theirs.issue("n2", &b)), ..config };
        let [at_first, at_second] = strangers(&first, second, [a, b.clone()]);
        assert!(at_first.contains("refused a link"), "{at_first}");
        assert!(at_second.contains("not from our authority"), "{at_second}");
    });
}

#[test]
fn a_node_without_a_certificate_is_refused_by_one_that_has_one() {
    limited(secs(90), || {
        let authority = Authority::new();
        let (a, b) = (Host::loopback(), Host::loopback());
        let first = StarlingConfig { certificates: Some(authority.issue("n1", &a)), ..alone() };
        let [at_first, at_second] = strangers(&first, |config| config, [a, b]);
        assert!(at_first.contains("it has no certificate"), "{at_first}");
        assert!(at_second.contains("wants a certificate"), "{at_second}");
    });
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    limited(secs(90), || {
        // The section [link] is the harness's; a second one would be an error, so the file is made from its own.
        let (a, b) = (Host::loopback(), Host::loopback());
        let n1 = Starling::start("n1", &a, &alone());
        n1.set("t", "k", "v", None).expect("set");
        let flags = ["--listen", "--admin", "--sip", "--join"];
        let values =
            [b.quic().to_string(), b.admin().to_string(), format!("udp:{}", b.sip()), n1.host.quic().to_string()];
        let mut command = Command::new(binary());
        command.args(["run", "--name", "n2", "--cluster", "other"]);
        for (flag, value) in flags.iter().zip(&values) {
            command.args([flag, value.as_str()]);
        }
        let n2 = starling_tests::process::Process::spawn(command, "n2", &fresh_dir("n2")).expect("started");
        eventually(PATIENCE, "it says why", || {
            ensure!(n2.log().contains("cluster"), "{}", n2.log_tail(5));
            let log = n2.log();
            let told = log.lines().any(|line| line.contains("WARN") && line.contains("cluster"));
            ensure!(told, "{}", n2.log_tail(5));
            Ok(())
        });
        assert_eq!(n1.get("/v1/status").expect("status")["links"], 0);
    });
}

#[test]
fn a_node_that_was_killed_comes_back_with_all_that_the_disk_acknowledged() {
    limited(secs(120), || {
        let config = StarlingConfig { durable: true, ack_disk: true, ..alone() };
        let mut node = Starling::start("n1", &Host::loopback(), &config);
        let id = node.get("/v1/status").expect("status")["id"].clone();
        for round in 0..3 {
            for n in 0..20 {
                node.set("t", &format!("{round}-{n}"), "v", None).expect("acknowledged");
            }
            node.delete("t", &format!("{round}-0")).expect("acknowledged");
            node.kill9();
            node.start_again();
            let found = node.entries("t").expect("entries");
            assert_eq!(found.len(), 19 * (round + 1), "after kill -9 number {round}");
            assert_eq!(node.get("/v1/status").expect("status")["id"], id);
        }
    });
}

#[test]
fn a_node_that_is_told_to_stop_ends_with_0_and_everything_on_disk() {
    limited(secs(120), || {
        let config = StarlingConfig { durable: true, ..alone() };
        let mut node = Starling::start("n1", &Host::loopback(), &config);
        for n in 0..500 {
            node.set("t", &n.to_string(), n, None).expect("set");
        }
        let digest = node.digest().expect("a digest");
        node.terminate().expect("a clean end");
        node.start_again();
        assert_eq!(node.digest().expect("a digest"), digest);
    });
}

#[test]
fn a_node_that_was_away_gets_what_it_missed_and_keeps_what_it_had() {
    limited(secs(120), || {
        let n1 = Starling::start("n1", &Host::loopback(), &alone());
        let mut n2 = Starling::start("n2", &Host::loopback(), &StarlingConfig { durable: true, ..joining(&[&n1]) });
        meet(&[&n1, &n2]);
        n2.set("t", "kept", "1", None).expect("set");
        n1.set("t", "gone", "1", None).expect("set");
        eventually(PATIENCE, "both have both", || equal_digests(&[&n1, &n2]));
        eventually(PATIENCE, "on disk", || same("durable", n2.get("/v1/status")?["durable"].as_bool(), Some(true)));
        n2.kill9();
        n1.set("t", "missed", "2", None).expect("set");
        n1.delete("t", "gone").expect("deleted");
        n2.start_again();
        eventually(PATIENCE, "it has what it missed", || {
            value_is(&n2, "missed", "2")?;
            value_is(&n2, "kept", "1")?;
            same("deleted meanwhile", n2.entry("t", "gone")?, None)?;
            equal_digests(&[&n1, &n2])
        });
    });
}

/// A `run` on this data directory that must refuse to start: what it says.
fn refused(data: &Path) -> String {
    let host = Host::loopback();
    let mut command = Command::new(binary());
    command.args(["run", "--listen", &host.quic().to_string(), "--admin", &host.admin().to_string()]);
    command.args(["--sip", &format!("udp:{}", host.sip()), "--data"]).arg(data);
    let out = command.output().expect("the starling binary runs");
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_data_directory_serves_one_process_and_one_version_at_a_time() {
    limited(secs(90), || {
        let config = StarlingConfig { durable: true, ..alone() };
        let mut node = Starling::start("n1", &Host::loopback(), &config);
        let data: PathBuf = node.get("/v1/status").expect("status")["data"].as_str().expect("a path").into();
        let said = refused(&data);
        assert!(said.contains("in use by another process") && said.contains("--data"), "{said}");
        node.terminate().expect("a clean end");
        let identity = data.join("identity.toml");
        let original = std::fs::read_to_string(&identity).expect("an identity");
        std::fs::write(&identity, original.replace("format = 1", "format = 99")).expect("written");
        assert!(refused(&data).contains("format 99"));
        std::fs::remove_file(&identity).expect("removed");
        assert!(refused(&data).contains("no identity.toml"));
        std::fs::write(&identity, original).expect("written");
        node.start_again();
    });
}
