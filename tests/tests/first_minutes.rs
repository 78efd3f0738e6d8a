//! The first minutes of a stranger: what a started node prints, and what the documentation shows, is pasted as
//! it stands, and works with a real server.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value as Json;
use starling_tests::host::Host;
use starling_tests::http;
use starling_tests::net::Net;
use starling_tests::phone::{Contact, Phone};
use starling_tests::process::{Process, fresh_dir};
use starling_tests::starling::binary;
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs};

/// Asks a node by its admin address.
fn get(admin: &str, path: &str) -> anyhow::Result<Json> {
    let answer = http::ask("GET", &format!("http://{admin}{path}"), None, secs(5))?;
    ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text);
    Ok(answer.json)
}

/// Starts what is to be typed into a shell.
fn shell(line: &str, name: &str, dir: &Path) -> Process {
    let mut command = Command::new("sh");
    command.current_dir(dir).args(["-c", &format!("exec {line}")]);
    Process::spawn(command, name, dir).expect("a shell")
}

/// Starts a server with a configuration file as it stands.
fn kamailio(configuration: &str, name: &str) -> (Process, PathBuf) {
    let dir = fresh_dir(name);
    fs::write(dir.join("kamailio.cfg"), configuration).expect("written");
    let mut command = Command::new("kamailio");
    command.args(["-DD", "-E", "-f"]).arg(dir.join("kamailio.cfg")).arg("-Y").arg(&dir).arg("-w").arg(&dir);
    let process = Process::spawn(command, name, &dir).expect("Kamailio started");
    (process, dir)
}

/// Registers at a server that may still be starting, and waits until the nodes show it.
fn register(server: &mut Process, sip: SocketAddr, aor: &str, nodes: &[&str]) {
    let uri = format!("sip:{aor}@192.0.2.1:5060");
    eventually(PATIENCE, "the phone registers", || {
        server.ensure_running()?;
        Phone::new(aor, sip).register(&[Contact::new(&uri)], 600).map(|_| ())
    });
    for admin in nodes {
        eventually(PATIENCE, &format!("{admin} shows it"), || {
            let shown = get(admin, &format!("/v1/location/{aor}"))?;
            same("contact", shown["contacts"][0]["contact"].as_str(), Some(uri.as_str()))
        });
    }
}

/// A configuration into which the printed lines are pasted where it says so.
fn pasted_into_a_plain_registrar(modparams: &str, route: &str) -> String {
    format!(
        "#!KAMAILIO\nlisten=udp:127.0.0.1:5060\nauto_aliases=no\n\
         loadmodule \"kex.so\"\nloadmodule \"tm.so\"\nloadmodule \"sl.so\"\nloadmodule \"pv.so\"\n\
         loadmodule \"textops.so\"\nloadmodule \"siputils.so\"\nloadmodule \"ctl.so\"\nloadmodule \"dmq.so\"\n\
         loadmodule \"usrloc.so\"\nloadmodule \"registrar.so\"\nloadmodule \"htable.so\"\nloadmodule \"dmq_usrloc.so\"\n\
         {modparams}\n\
         modparam(\"htable\", \"htable\", \"shared=>size=8;dmqreplicate=1\")\n\
         request_route {{\n{route}\nif (is_method(\"REGISTER\")) {{ save(\"location\"); exit; }}\n}}\n"
    )
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn the_lines_that_a_node_prints_attach_a_server_and_a_second_node() {
    limited(secs(120), || {
        Net::run(|_| {
            let dir = fresh_dir("node");
            let mut first = shell(&format!("{} run", binary().display()), "first", &dir);
            eventually(PATIENCE, "the node is ready", || {
                first.ensure_running()?;
                http::ask("GET", "http://127.0.0.1:8070/readyz", None, secs(2)).map(|_| ())
            });
            let printed = first.log();
            let lines = || printed.lines().map(str::trim);
            let modparams: Vec<&str> = lines().filter(|l| l.starts_with("modparam(")).collect();
            let route = lines().find_map(|l| l.split_once("request_route:")).expect("the line for request_route").1;
            let command = lines().find(|l| l.contains(" run --name ")).expect("the command for a second node");

            let mut second = shell(command, "second", &dir);
            let admin = command.split("--admin ").nth(1).expect("an admin address").trim().to_owned();
            eventually(PATIENCE, "the two meet", || {
                second.ensure_running()?;
                let members = get(&admin, "/v1/members")?;
                let alive = members.as_array().into_iter().flatten().filter(|m| m["state"] == "alive").count();
                ensure!(alive >= 1 && get(&admin, "/v1/status")?["links"] == 1, "{members}");
                Ok(())
            });
            let configuration = pasted_into_a_plain_registrar(&modparams.join("\n"), route);
            let (mut server, _) = kamailio(&configuration, "pasted");
            register(&mut server, "127.0.0.1:5060".parse().unwrap(), "newcomer", &["127.0.0.1:8070", &admin]);
        });
    });
}

/// The first block of that language in a page of the documentation.
fn block(page: &str, language: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let start = text.find(&format!("```{language}\n")).unwrap_or_else(|| panic!("no {language} block in {page}"));
    let rest = &text[start + language.len() + 4..];
    rest[..rest.find("```").expect("its end")].to_owned()
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn the_complete_configuration_of_the_documentation_replicates_both_ways() {
    limited(secs(120), || {
        Net::run(|_| {
            let dir = fresh_dir("node");
            let mut node = shell(&format!("{} run", binary().display()), "node", &dir);
            let (mut server, run) = kamailio(&block("kamailio.md", "kamailio"), "documented");
            let sip = SocketAddr::from((Ipv4Addr::LOCALHOST, 5060));
            register(&mut server, sip, "reader", &["127.0.0.1:8070"]);
            node.ensure_running().unwrap();
            let put = |path: &str, body: Json| {
                let answer = http::ask("PUT", &format!("http://127.0.0.1:8070{path}"), Some(&body), secs(5)).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text);
            };
            put("/v1/location/written", serde_json::json!({"contact": "sip:written@192.0.2.2:5060"}));
            put("/v1/htable/ipban/192.0.2.7", serde_json::json!({"value": 1}));
            let asked = |args: &[&str]| {
                let socket = format!("unix:{}", run.join("kamailio_ctl").display());
                let out = Command::new("kamcmd").args(["-s", &socket]).args(args).output().context("kamcmd")?;
                Ok::<_, anyhow::Error>(String::from_utf8_lossy(&out.stdout).into_owned())
            };
            eventually(PATIENCE, "the server has the contact", || {
                let shown = asked(&["ul.lookup", "location", "written"])?;
                ensure!(shown.contains("sip:written@192.0.2.2:5060"), "{shown}");
                Ok(())
            });
            eventually(PATIENCE, "the server has the entry", || {
                let shown = asked(&["htable.get", "ipban", "192.0.2.7"])?;
                ensure!(shown.contains("192.0.2.7") && !shown.contains("error"), "{shown}");
                Ok(())
            });
        });
    });
}

#[test]
#[ignore = "needs root for network namespaces: run cargo xtask test"]
fn two_sites_are_linked_by_the_commands_of_the_readme() {
    limited(secs(120), || {
        Net::run(|net| {
            let sites = [net.site(), net.site()];
            let (left, right) = (sites[0].host(), sites[1].host());
            let (dir, starling) = (fresh_dir("sites"), binary().display().to_string());
            let typed = |line: &str| {
                let out = Command::new("sh").current_dir(&dir).args(["-c", line]).output().expect("a shell");
                assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
            };
            typed(&format!("{starling} cert ca --out ca"));
            for name in ["n1", "n2"] {
                typed(&format!("{starling} cert node --ca ca --name {name} --out {name} > {name}.toml"));
            }
            let run = |name: &str, host: &Host, join: &str| {
                let netns = host.netns.as_deref().expect("a namespace");
                let (ip, admin) = (host.ip, host.admin());
                let line = format!(
                    "ip netns exec {netns} {starling} run --config {name}.toml --listen {ip}:7946 {join} --admin {admin}"
                );
                shell(&line, name, &dir)
            };
            let mut nodes = [run("n1", &left, ""), run("n2", &right, &format!("--join {}", left.quic()))];
            for host in [&left, &right] {
                eventually(PATIENCE, "linked", || {
                    nodes.iter_mut().try_for_each(Process::ensure_running)?;
                    same("links", get(&host.admin().to_string(), "/v1/status")?["links"].as_u64(), Some(1))
                });
            }
            let status = get(&left.admin().to_string(), "/v1/status").unwrap();
            assert_eq!((&status["tls"], &status["name"]), (&Json::Bool(true), &Json::from("n1")));
        });
    });
}
