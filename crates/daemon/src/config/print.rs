//! `starling run --print-config`: the effective configuration, as a file that can be used.

use std::fmt::{Display, Write};

use super::Settings;
use super::settings::{Ack, Mode, Timing};

impl Settings {
    /// The configuration as a TOML file with a comment for every key. Reading it gives the same settings.
    pub fn to_toml(&self) -> String {
        let mut out =
            String::from("# Starling's configuration. Every key is optional; these are the values in effect.\n\n");
        self.print_node(&mut out);
        self.print_link(&mut out);
        self.print_sip(&mut out);
        self.print_dmq(&mut out);
        self.print_tables(&mut out);
        self.print_rest(&mut out);
        out
    }

    fn print_node(&self, out: &mut String) {
        option(
            out,
            "The name that people use; the certificate's, or else the host's, unless given.",
            "name",
            self.name.as_ref(),
            "n1",
        );
        let data = self.data.as_ref().map(|path| path.display());
        option(out, "Where the state is kept. Without it the node is memory only.", "data", data, "/var/lib/starling");
        let ack = match self.ack {
            Ack::Memory => "memory",
            Ack::Disk => "disk",
        };
        key(
            out,
            "When a write is acknowledged: \"memory\" (at once) or \"disk\" (when it is fsynced; needs data).",
            "ack",
            &quoted(ack),
        );
    }

    fn print_link(&self, out: &mut String) {
        let link = &self.link;
        section(out, "link", "Links to other nodes: QUIC over UDP.");
        key(
            out,
            "Address to listen on. Beyond loopback only with certificates, see [tls].",
            "listen",
            &quoted(link.listen),
        );
        option(
            out,
            "The address that others reach this node at; the one above unless given.",
            "advertise",
            link.advertise.as_ref(),
            "192.0.2.1:7946",
        );
        key(out, "Nodes to join; one that answers is enough.", "join", &list(&link.join));
        let timing = match link.timing {
            Timing::Lan => "lan",
            Timing::Wan => "wan",
        };
        key(out, "Failure detector: \"lan\" (one site) or \"wan\" (several).", "timing", &quoted(timing));
        key(
            out,
            "With a node whose clock is further away than this no data is exchanged. The same on all nodes.",
            "max_skew",
            &quoted(link.max_skew),
        );
        key(
            out,
            "A node that is away longer than this has left. Longer than every max_ttl.",
            "forget_after",
            &quoted(link.forget_after),
        );
        key(out, "Nodes of different clusters refuse each other.", "cluster", &quoted(&link.cluster));
        section(out, "tls", "Certificates of an own authority, PEM: all three, or none. `starling cert` makes them.");
        let tls = &self.tls;
        option(
            out,
            "The authority that all nodes share.",
            "ca",
            tls.ca.as_ref().map(|p| p.display()),
            "/etc/starling/ca.pem",
        );
        option(
            out,
            "This node's certificate; its name is the node's.",
            "cert",
            tls.cert.as_ref().map(|p| p.display()),
            "/etc/starling/n1.pem",
        );
        option(out, "Its private key.", "key", tls.key.as_ref().map(|p| p.display()), "/etc/starling/n1.key");
    }

    fn print_sip(&self, out: &mut String) {
        section(out, "sip", "Where Kamailio servers reach this node.");
        key(out, "Sockets, \"udp:IP:PORT\" or \"tcp:IP:PORT\".", "listen", &list(&self.sip.listen));
        option(
            out,
            "The IP address that servers know this node by, where a socket listens on all.",
            "advertise",
            self.sip.advertise,
            "192.0.2.1",
        );
    }

    fn print_dmq(&self, out: &mut String) {
        let dmq = &self.dmq;
        section(out, "dmq", "Kamailio servers, which see this node as a DMQ peer.");
        key(
            out,
            "Servers to greet at start, \"sip:HOST[:PORT][;transport=tcp]\". Others may come by themselves.",
            "peers",
            &list(&dmq.peers),
        );
        let mode = match dmq.mode {
            Mode::Bridge => "bridge",
            Mode::Mesh => "mesh",
        };
        key(
            out,
            "\"bridge\": servers know only their own node. \"mesh\": the node list names all, as Kamailio's does.",
            "mode",
            &quoted(mode),
        );
        let trusted = dmq.trusted.as_ref().map(|nets| nets.iter().map(|net| net.0).collect::<Vec<_>>());
        let help = "Networks whose requests are taken; all others get 403. Unless given: loopback and the peers above.";
        match trusted {
            Some(nets) => key(out, help, "trusted", &list(&nets)),
            None => absent(out, help, "trusted", "[\"127.0.0.0/8\", \"192.0.2.0/24\"]"),
        }
        key(out, "How often a server is pinged.", "ping_interval", &quoted(dmq.ping_interval));
        key(out, "Open requests per server at a time.", "window", &dmq.window);
        let help = "A server that is known to hold so many cells is given no further contact; 0 = no limit. One takes 1.1 kB of\n\
                    # its shared memory: Debian's default of 64 MB is full at some 55,000, and Kamailio 5.6 dies of that.";
        key(out, help, "feed_limit", &dmq.feed_limit);
        key(out, "Contacts in one request while a queue is long.", "multi", &dmq.multi);
    }

    fn print_tables(&self, out: &mut String) {
        section(out, "location", "Registrations.");
        key(
            out,
            "Longest life; a contact that lives longer is held as a lease. The same on all nodes.",
            "max_ttl",
            &quoted(self.location.max_ttl),
        );
        section(out, "dialog", "Dialogs.");
        key(
            out,
            "Longest life, from the INVITE on, of a dialog that nobody ends. The same on all nodes.",
            "max_life",
            &quoted(self.dialog.max_life),
        );
        for (name, table) in &self.htable {
            section(
                out,
                &format!("htable.{}", bare_or_quoted(name)),
                "A hash table as the Kamailio servers declare it.",
            );
            key(out, "Seconds until an entry expires; 0s = never.", "autoexpire", &quoted(table.autoexpire));
            key(out, "Whether a set restarts that.", "updateexpire", &table.updateexpire);
            key(out, "Whether $shtinc is counted exactly over all sites.", "counter", &table.counter);
            key(
                out,
                "Longest life of an entry; 0s = unbounded. The same on all nodes.",
                "max_ttl",
                &quoted(table.max_ttl),
            );
        }
        if self.htable.is_empty() {
            out.push_str(
                "\n# A hash table that needs more than the defaults, as the Kamailio servers declare it.\n\
                 #[htable.NAME]\n#autoexpire = \"1h\"\n#updateexpire = true\n#counter = false\n#max_ttl = \"0s\"\n",
            );
        }
    }

    fn print_rest(&self, out: &mut String) {
        section(out, "admin", "The HTTP interface that `starling status` and the like ask. It has no authentication.");
        key(out, "Address.", "listen", &quoted(self.admin.listen));
        section(out, "log", "Lines on standard error.");
        key(out, "\"error\", \"warn\", \"info\", \"debug\" or \"trace\".", "level", &quoted(self.log.level.word()));
    }
}

// Writing to a String cannot fail, so the results below are dropped.

fn section(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(out, "\n# {help}\n[{name}]");
}

fn key(out: &mut String, help: &str, name: &str, value: &dyn Display) {
    let _ = writeln!(out, "# {help}\n{name} = {value}");
}

fn absent(out: &mut String, help: &str, name: &str, example: &str) {
    let _ = writeln!(out, "# {help}\n#{name} = {example}");
}

fn option(out: &mut String, help: &str, name: &str, value: Option<impl Display>, example: &str) {
    match value {
        Some(value) => key(out, help, name, &quoted(value)),
        None => absent(out, help, name, &quoted(example)),
    }
}

fn quoted(value: impl Display) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn list(values: &[impl Display]) -> String {
    let values: Vec<String> = values.iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}

fn bare_or_quoted(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if bare { name.to_owned() } else { quoted(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        let defaults = Settings::default();
        let read: Settings = toml::from_str(&defaults.to_toml()).expect("printed TOML");
        assert_eq!(read, defaults);
    }

    #[test]
    fn what_was_set_is_printed_and_read_back() {
        let text = r#"
            name = "n1"
            data = "/var/lib/star \"ling\""
            ack = "disk"
            [link]
            advertise = "n1.example.org:7946"
            join = ["n2:7946", "n3:7946"]
            timing = "wan"
            [tls]
            ca = "a"
            cert = "b"
            key = "c"
            [sip]
            listen = []
            advertise = "192.0.2.1"
            [dmq]
            peers = ["sip:k1;transport=tcp"]
            mode = "mesh"
            trusted = []
            [htable."odd name"]
            autoexpire = "1h30m"
        "#;
        let settings: Settings = toml::from_str(text).expect("settings");
        let read: Settings = toml::from_str(&settings.to_toml()).expect("printed TOML");
        assert_eq!(read, settings);
    }
}
