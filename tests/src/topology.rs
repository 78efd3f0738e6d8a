//! The arrangement that most tests start from: two servers, each with a node, and a third node without one.
//!
//! ```text
//!   K1 --KDMQ-- N1 ---QUIC--- N2 --KDMQ-- K2
//!                 \           /
//!                  --- N3 ---
//! ```

use anyhow::ensure;

use crate::compare::{same_contacts, same_entries};
use crate::host::Host;
use crate::kamailio::{Kamailio, KamailioConfig};
use crate::net::{Net, Site};
use crate::starling::{Authority, Starling, StarlingConfig, equal_digests, meet};
use crate::wait::{PATIENCE, eventually, secs};

/// Hash tables that are replicated.
pub const TABLES: [&str; 5] = ["plain", "exp", "fix", "short", "cnt"];

/// Two servers, three nodes.
#[derive(Debug)]
pub struct Bridge {
    /// Knows only `n1`.
    pub k1: Kamailio,
    /// Knows only `n2`.
    pub k2: Kamailio,
    /// With `k1`.
    pub n1: Starling,
    /// With `k2`.
    pub n2: Starling,
    /// Without a server.
    pub n3: Starling,
}

/// What may be different about a [`Bridge`].
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Of both servers; `notification_addresses` and `server_id` are filled in.
    pub server: KamailioConfig,
    /// Of all nodes; `peers`, `join` and `certificates` are filled in.
    pub node: StarlingConfig,
}

/// The three sites of [`Bridge::in_sites`].
#[derive(Debug)]
pub struct Sites {
    /// `k1`, `n1`.
    pub first: Site,
    /// `k2`, `n2`.
    pub second: Site,
    /// `n3`.
    pub third: Site,
}

impl Bridge {
    /// Everything on loopback addresses.
    #[must_use]
    pub fn on_loopback(plan: &Plan) -> Self {
        let hosts = [(); 5].map(|()| Host::loopback());
        Self::start(&hosts, plan, None)
    }

    /// Each node with its server in a site of its own, links with certificates.
    #[must_use]
    pub fn in_sites(net: &Net, plan: &Plan) -> (Self, Sites) {
        let sites = Sites { first: net.site(), second: net.site(), third: net.site() };
        let at = [&sites.first, &sites.second, &sites.first, &sites.second, &sites.third];
        let hosts = at.map(Site::host);
        (Self::start(&hosts, plan, Some(&Authority::new())), sites)
    }

    fn start([k1, k2, n1, n2, n3]: &[Host; 5], plan: &Plan, authority: Option<&Authority>) -> Self {
        let transport = if plan.server.tcp { ";transport=tcp" } else { "" };
        let node = |name: &str, host: &Host, server: Option<&Host>, others: [&Host; 2]| {
            let mut config = plan.node.clone();
            config.peers = server.iter().map(|s| s.dmq_uri() + transport).collect();
            config.join = others.map(Host::quic).to_vec();
            config.certificates = authority.map(|a| a.issue(name, host));
            Starling::start(name, host, &config)
        };
        let n1 = node("n1", n1, Some(k1), [n2, n3]);
        let n2 = node("n2", n2, Some(k2), [&n1.host, n3]);
        let n3 = node("n3", n3, None, [&n1.host, &n2.host]);
        let server = |name: &str, host: &Host, node: &Host, server_id: u32| {
            let notification_addresses = vec![node.dmq_uri() + transport];
            Kamailio::start(name, host, KamailioConfig { notification_addresses, server_id, ..plan.server.clone() })
        };
        let k1 = server("k1", k1, &n1.host, 1);
        let k2 = server("k2", k2, &n2.host, 2);
        let bridge = Self { k1, k2, n1, n2, n3 };
        bridge.wait_attached();
        bridge
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> [&Starling; 3] {
        [&self.n1, &self.n2, &self.n3]
    }

    /// Waits until the nodes are linked and the servers attached.
    ///
    /// # Panics
    /// When they are not in time.
    pub fn wait_attached(&self) {
        meet(&self.nodes());
        for (server, node) in [(&self.k1, &self.n1), (&self.k2, &self.n2)] {
            eventually(PATIENCE, "the server has its node", || server.ensure_active(&node.host));
            eventually(PATIENCE, "the node has its server", || node.ensure_served(&server.host));
        }
    }

    /// Fails unless all nodes have equal digests, and both servers hold what the nodes hold.
    ///
    /// # Errors
    /// With the first difference.
    pub fn ensure_converged(&self) -> anyhow::Result<()> {
        equal_digests(&self.nodes())?;
        self.ensure_servers_equal_nodes()
    }

    /// Fails unless both servers hold the contacts and entries that the third node holds.
    ///
    /// # Errors
    /// With the first difference.
    pub fn ensure_servers_equal_nodes(&self) -> anyhow::Result<()> {
        let contacts = self.n3.contacts()?;
        for (name, server) in [("k1", &self.k1), ("k2", &self.k2)] {
            same_contacts("n3", &contacts, name, &server.contacts()?)?;
        }
        for table in TABLES {
            let entries = self.n3.entries(table)?;
            for (name, server) in [("k1", &self.k1), ("k2", &self.k2)] {
                same_entries(&format!("{table} of n3"), &entries, name, &server.entries(table)?)?;
            }
        }
        Ok(())
    }

    /// Waits until everything is equal everywhere.
    ///
    /// # Panics
    /// When it is not in time.
    #[track_caller]
    pub fn wait_converged(&self) {
        eventually(PATIENCE, "servers and nodes hold the same", || self.ensure_converged());
    }

    /// Waits until the AoR has contacts with exactly these URIs at both servers and all nodes.
    ///
    /// # Panics
    /// When it has not, in time.
    #[track_caller]
    pub fn wait_contacts(&self, aor: &str, uris: &[&str]) {
        eventually(PATIENCE, &format!("{aor} has {uris:?} everywhere"), || self.ensure_contacts(aor, uris));
    }

    /// Fails unless the AoR has contacts with exactly these URIs at both servers and all nodes.
    ///
    /// # Errors
    /// With who has what.
    pub fn ensure_contacts(&self, aor: &str, uris: &[&str]) -> anyhow::Result<()> {
        let mut wanted: Vec<String> = uris.iter().map(|u| (*u).to_owned()).collect();
        wanted.sort();
        let held = [
            ("k1", self.k1.contacts_of(aor)?),
            ("k2", self.k2.contacts_of(aor)?),
            ("n1", self.n1.contacts_of(aor)?),
            ("n2", self.n2.contacts_of(aor)?),
            ("n3", self.n3.contacts_of(aor)?),
        ];
        for (name, contacts) in held {
            let mut uris: Vec<String> = contacts.into_iter().map(|c| c.contact).collect();
            uris.sort();
            ensure!(uris == wanted, "{name} has {uris:?}");
        }
        Ok(())
    }

    /// Waits until an entry has this value (or is absent) at both servers and all nodes.
    ///
    /// # Panics
    /// When it has not, in time.
    #[track_caller]
    pub fn wait_entry(&self, table: &str, key: &str, value: Option<crate::compare::Value>) {
        eventually(PATIENCE, &format!("{table}/{key} is {value:?} everywhere"), || {
            self.ensure_entry(table, key, value.as_ref())
        });
    }

    /// Fails unless an entry has this value (or is absent) at both servers and all nodes.
    ///
    /// # Errors
    /// With who has what.
    pub fn ensure_entry(&self, table: &str, key: &str, value: Option<&crate::compare::Value>) -> anyhow::Result<()> {
        let held = [
            ("k1", self.k1.entry(table, key)?),
            ("k2", self.k2.entry(table, key)?),
            ("n1", self.n1.entry(table, key)?),
            ("n2", self.n2.entry(table, key)?),
            ("n3", self.n3.entry(table, key)?),
        ];
        for (name, entry) in held {
            ensure!(entry.as_ref().map(|(v, _)| v) == value, "{name} has {entry:?}");
        }
        Ok(())
    }

    /// Waits until some other node has given that one up, so that a split is no longer a mere delay.
    ///
    /// # Panics
    /// When nobody does.
    pub fn wait_noticed(&self, who: &Starling, missing: usize) {
        eventually(secs(60), &format!("{} misses {missing}", who.name), || {
            let members = who.get("/v1/members")?;
            let others = members.as_array().into_iter().flatten().filter(|m| m["name"] != who.name);
            let down = others.filter(|m| m["state"] != "alive").count();
            ensure!(down == missing, "{members}");
            Ok(())
        });
    }
}
