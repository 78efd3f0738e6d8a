//! A wide area of network namespaces: sites around a router, whose links can be cut in any direction.
//!
//! ```text
//!   site 1  10.1.0.0/16 ---uplink--- router ---uplink--- site 2  10.2.0.0/16
//!   (servers, nodes)                                     (servers, nodes)
//!          \----------local--- the test itself ---local----------/
//! ```
//!
//! The test lives in a namespace of its own with a second link to each site, so it reaches everybody whatever
//! is cut between the sites. Cuts between sites drop what the router forwards, or take an uplink down; cuts
//! inside a site drop what arrives there. Needs root, iproute2 and iptables. A namespace takes its interfaces
//! and rules along when it goes.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::host::Host;
use crate::process::PREFIX;

/// A router and its sites.
#[derive(Debug)]
pub struct Net {
    home: String,
    router: String,
    sites: Mutex<u8>,
}

/// Hosts behind one link to the router.
#[derive(Clone, Debug)]
pub struct Site {
    inner: Arc<SiteInner>,
}

#[derive(Debug)]
struct SiteInner {
    number: u8,
    netns: String,
    router: String,
    hosts: Mutex<u8>,
}

/// Names each net of this process differently.
static NETS: AtomicU32 = AtomicU32::new(0);

impl Net {
    /// Runs `body` in a thread that lives in the test's own namespace. Every socket that it opens and every
    /// process and thread that it starts is there too.
    ///
    /// # Panics
    /// When a namespace cannot be made (it needs root), and with the panic of `body`.
    pub fn run<T: Send>(body: impl FnOnce(&Self) -> T + Send) -> T {
        let name = format!("{PREFIX}-{}-{}", std::process::id(), NETS.fetch_add(1, Ordering::Relaxed));
        let net = Self { router: format!("{name}-router"), home: name, sites: Mutex::new(0) };
        for netns in [&net.home, &net.router] {
            ip(&["netns", "add", netns]);
            ip(&["-n", netns, "link", "set", "lo", "up"]);
        }
        inside(&net.router, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let netns = File::open(format!("/run/netns/{}", net.home)).expect("the test's namespace");
                    rustix::thread::move_into_link_name_space(
                        std::os::fd::AsFd::as_fd(&netns),
                        Some(rustix::thread::LinkNameSpaceType::Network),
                    )
                    .expect("to enter the test's namespace (needs root)");
                    body(&net)
                })
                .join()
        });
        match result {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A new site.
    pub fn site(&self) -> Site {
        let mut sites = self.sites.lock().unwrap();
        *sites += 1;
        let number = *sites;
        let netns = format!("{}-s{number}", self.home);
        let name = format!("site{number}");
        ip(&["netns", "add", &netns]);
        ip(&["-n", &netns, "link", "set", "lo", "up"]);
        for (far, near) in [(&self.home, "local"), (&self.router, "uplink")] {
            ip(&["-n", far, "link", "add", "name", &name, "type", "veth", "peer", "name", near, "netns", &netns]);
            ip(&["-n", far, "link", "set", &name, "up"]);
            ip(&["-n", &netns, "link", "set", near, "up"]);
        }
        ip(&["-n", &self.home, "addr", "add", &format!("10.{number}.255.254/16"), "dev", &name]);
        ip(&["-n", &netns, "addr", "add", &format!("10.{number}.0.1/16"), "dev", "local"]);
        ip(&["-n", &self.router, "addr", "add", &format!("172.16.{number}.1/24"), "dev", &name]);
        ip(&["-n", &netns, "addr", "add", &format!("172.16.{number}.2/24"), "dev", "uplink"]);
        ip(&["-n", &netns, "route", "add", "default", "via", &format!("172.16.{number}.1")]);
        let site =
            Site { inner: Arc::new(SiteInner { number, netns, router: self.router.clone(), hosts: Mutex::new(1) }) };
        site.plug();
        site
    }

    /// Cuts two sites apart, in both directions.
    pub fn cut(&self, a: &Site, b: &Site) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Drops what `from` sends to `to`; what `to` sends still arrives.
    pub fn cut_one_way(&self, from: &Site, to: &Site) {
        self.forward_rule("-A", from, to, &[]);
    }

    /// Loses some of what goes between two sites, both ways: a fraction of the packets, `0.0` to `1.0`.
    pub fn lose(&self, a: &Site, b: &Site, fraction: f64) {
        let text = fraction.to_string();
        for (from, to) in [(a, b), (b, a)] {
            self.forward_rule("-A", from, to, &["-m", "statistic", "--mode", "random", "--probability", &text]);
        }
    }

    /// Undoes every cut and loss between sites.
    pub fn heal(&self) {
        inside(&self.router, &["iptables", "-w", "-F", "FORWARD"]);
    }

    fn forward_rule(&self, what: &str, from: &Site, to: &Site, more: &[&str]) {
        let (from, to) = (from.subnet(), to.subnet());
        let mut args = vec!["iptables", "-w", what, "FORWARD", "-s", &from, "-d", &to];
        args.extend(more);
        args.extend(["-j", "DROP"]);
        inside(&self.router, &args);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for netns in [&self.router, &self.home] {
            let _ = Command::new("ip").args(["netns", "del", netns]).output();
        }
    }
}

impl Site {
    /// A new host in this site.
    #[must_use]
    pub fn host(&self) -> Host {
        let mut hosts = self.inner.hosts.lock().unwrap();
        *hosts += 1;
        let ip_text = format!("10.{}.0.{hosts}", self.inner.number);
        ip(&["-n", &self.inner.netns, "addr", "add", &format!("{ip_text}/16"), "dev", "local"]);
        Host { ip: Ipv4Addr::new(10, self.inner.number, 0, *hosts), netns: Some(self.inner.netns.clone()) }
    }

    /// Drops everything between two hosts of this site.
    pub fn cut(&self, a: &Host, b: &Host) {
        for (from, to) in [(a, b), (b, a)] {
            self.input_rule("-A", from, to, &["-j", "DROP"]);
        }
    }

    /// Undoes [`Site::cut`].
    pub fn heal(&self, a: &Host, b: &Host) {
        for (from, to) in [(a, b), (b, a)] {
            self.input_rule("-D", from, to, &["-j", "DROP"]);
        }
    }

    /// Loses some of what goes between two hosts of this site, both ways: a fraction of the packets.
    pub fn lose(&self, a: &Host, b: &Host, fraction: f64) {
        let text = fraction.to_string();
        for (from, to) in [(a, b), (b, a)] {
            let rule = ["-m", "statistic", "--mode", "random", "--probability", &text, "-j", "DROP"];
            self.input_rule("-A", from, to, &rule);
        }
    }

    /// Takes the site's link to the router down, so that it is alone.
    pub fn unplug(&self) {
        ip(&["-n", &self.inner.router, "link", "set", &format!("site{}", self.inner.number), "down"]);
    }

    /// Undoes [`Site::unplug`].
    pub fn plug(&self) {
        let (link, gateway) = (format!("site{}", self.inner.number), format!("172.16.{}.2", self.inner.number));
        ip(&["-n", &self.inner.router, "link", "set", &link, "up"]);
        // A link that goes down takes its routes along.
        ip(&["-n", &self.inner.router, "route", "replace", &self.subnet(), "via", &gateway]);
    }

    /// Has the kernel count the KDMQ requests of a channel that arrive at `to` from `from`, both hosts of this
    /// site, from now on.
    #[must_use]
    pub fn count_kdmq(&self, channel: &str, from: &Host, to: &Host) -> Count {
        let text = format!("KDMQ sip:{channel}@");
        // The start line of a datagram: after 20 bytes of IP and 8 of UDP header.
        let end = (28 + text.len() + 1).to_string();
        let rule = ["-p", "udp", "-m", "string", "--algo", "bm", "--from", "28", "--to", &end, "--string", &text];
        self.input_rule("-A", from, to, &rule);
        Count { netns: self.inner.netns.clone(), from: from.ip, to: to.ip, channel: text }
    }

    fn subnet(&self) -> String {
        format!("10.{}.0.0/16", self.inner.number)
    }

    fn input_rule(&self, what: &str, from: &Host, to: &Host, more: &[&str]) {
        let (from, to) = (from.ip.to_string(), to.ip.to_string());
        let mut args = vec!["iptables", "-w", what, "INPUT", "-s", &from, "-d", &to];
        args.extend(more);
        inside(&self.inner.netns, &args);
    }
}

impl Drop for SiteInner {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).output();
    }
}

/// A kernel counter of KDMQ requests, retransmissions included.
#[derive(Debug)]
pub struct Count {
    netns: String,
    from: Ipv4Addr,
    to: Ipv4Addr,
    channel: String,
}

impl Count {
    /// Requests until now.
    ///
    /// # Panics
    /// When the kernel's table cannot be read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let out = inside(&self.netns, &["iptables", "-w", "-L", "INPUT", "-v", "-n", "-x"]);
        out.lines()
            .filter(|line| line.contains(&self.channel))
            .filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let ends = [self.from.to_string(), self.to.to_string()];
                let matches = fields.windows(2).any(|pair| pair == ends);
                matches.then(|| fields.first().and_then(|n| n.parse::<u64>().ok())).flatten()
            })
            .sum()
    }
}

fn ip(args: &[&str]) -> String {
    run(Command::new("ip").args(args))
}

fn inside(netns: &str, args: &[&str]) -> String {
    run(Command::new("ip").args(["netns", "exec", netns]).args(args))
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
