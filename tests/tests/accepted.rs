//! What our encoders emit is understood by a real server: it is fed by a scripted peer, then asked
//! for all it has, and our decoders read the answer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bstr::{BStr, BString};
use kdmq::notification::{NodeLine, Status, Transport};
use kdmq::{Generation, htable, notification, usrloc};
use starling_tests::compare::unix_now;
use starling_tests::host::Host;
use starling_tests::kamailio::{Kamailio, KamailioConfig};
use starling_tests::peer::FakePeer;
use starling_tests::wait::{PATIENCE, eventually, limited, same, secs};
use tables::htable::Value;
use tables::location::Contact;

/// A server with a peer that it takes for a DMQ node.
struct Fed {
    server: Kamailio,
    peer: FakePeer,
}

impl Fed {
    fn start(name: &str) -> Self {
        let server = Kamailio::start(name, &Host::loopback(), KamailioConfig::default());
        let peer = FakePeer::start(&Host::loopback());
        let answer = peer.join(server.sip()).expect("an answer to the join");
        assert_eq!(answer.status(), Some(200));
        Self { server, peer }
    }

    /// Sends a body and expects it to be taken.
    fn feed(&self, channel: &str, body: &[u8]) {
        let request = self.peer.request(self.server.sip(), channel, body);
        let answer = self.peer.send(self.server.sip(), &request).expect("an answer");
        assert_eq!(answer.status(), Some(200), "{}", BStr::new(body));
    }

    fn update(&self, aor: &[u8], contact: &Contact<'_>, ruid: &[u8]) {
        let body = usrloc::encode_update(aor, contact, ruid, Generation::V5);
        self.feed("usrloc", &body.expect("a contact"));
    }

    /// Bodies that the server sends on `channel` until it has answered `question`.
    fn ask(&self, channel: &str, question: &[u8]) -> Vec<Vec<u8>> {
        let before = self.peer.requests(channel).len();
        self.feed(channel, question);
        let after = self.peer.requests(channel);
        after.into_iter().skip(before).map(|message| message.body).collect()
    }

    /// What the server holds under each ruid, by its own account.
    fn contacts(&self) -> BTreeMap<BString, (BString, Contact<'static>)> {
        let mut held = BTreeMap::new();
        for body in self.ask("usrloc", usrloc::SYNC) {
            let batch = usrloc::decode(&body).expect("a dump that we understand");
            assert_eq!(batch.skipped, 0);
            for action in batch.actions {
                let usrloc::Action::Update(row) = action else { panic!("{action:?} in a dump") };
                let contact = row.contact.into_owned();
                let ruid = BString::from(contact.ruid.as_ref());
                held.insert(ruid, (row.aor.into_owned(), contact));
            }
        }
        held
    }

    /// What the server holds in its hash tables, by its own account: value and expiry.
    fn cells(&self) -> BTreeMap<(BString, BString), (Value<'static>, u64)> {
        let mut held = BTreeMap::new();
        for body in self.ask("htable", htable::SYNC) {
            let htable::Action::Cells(cells) = htable::decode(&body).expect("cells") else {
                panic!("no cells in {}", BStr::new(&body))
            };
            assert_eq!(cells.skipped, 0);
            for cell in cells.cells {
                let id = (cell.table.into_owned(), cell.key.into_owned());
                held.insert(id, (cell.value.into_owned(), cell.expire));
            }
        }
        held
    }
}

fn text(text: &[u8]) -> Cow<'static, BStr> {
    Cow::Owned(BString::from(text))
}

/// A contact that ends in ten minutes.
fn contact(uri: &str, ruid: &str) -> Contact<'static> {
    let now = unix_now();
    Contact {
        uri: text(uri.as_bytes()),
        ruid: text(ruid.as_bytes()),
        callid: text(format!("{ruid}@phone").as_bytes()),
        cseq: 7,
        expires: now + 600,
        last_modified: now - 5,
        server_id: 3,
        ..Contact::default()
    }
}

/// Contacts with everything that a contact can have.
fn full_contacts() -> Vec<(&'static [u8], Contact<'static>)> {
    let plain = contact("sip:alice@192.0.2.7:5060", "r-plain");
    vec![
        (
            b"carol",
            Contact {
                received: text(b"sip:198.51.100.9:40001;transport=tcp"),
                path: text(b"<sip:edge1@192.0.2.1;lr;ob>,<sip:e2;lr>"),
                user_agent: text(b"LabPhone/1.0 \"x\" \\ / \x01\x7f"),
                instance: text(b"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>"),
                reg_id: 2,
                q: 500,
                methods: 527,
                cflags: 64,
                ..contact("sip:carol@192.0.2.7:5060;transport=tcp", "r-full")
            },
        ),
        (
            b"j\xf6rg",
            Contact {
                user_agent: text(b"T\xe9l\xe9phone \xff"),
                callid: text("schlüssel-鍵 🔑".as_bytes()),
                ..contact("sip:joerg@192.0.2.8", "r-latin1")
            },
        ),
        (b"perm", Contact { expires: 0, ..contact("sip:perm@192.0.2.9", "r-permanent") }),
        (b"seq", Contact { cseq: u32::MAX, ..contact("sip:seq@192.0.2.9", "r-cseq") }),
        (b"nocall", Contact { callid: text(b""), ..contact("sip:n@192.0.2.9", "r-nocall") }),
        (b"alice", plain),
    ]
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_gives_back_every_contact_that_it_was_fed() {
    limited(secs(60), || {
        let fed = Fed::start("fed");
        for (aor, contact) in full_contacts() {
            fed.update(aor, &contact, &contact.ruid);
        }
        let held = fed.contacts();
        assert_eq!(held.len(), full_contacts().len());
        for (aor, contact) in full_contacts() {
            let (held_aor, held) = &held[&BString::from(contact.ruid.as_ref())];
            assert_eq!(held_aor, aor);
            assert_eq!(held, &contact);
        }
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_applies_overwriting_shortening_and_removal_under_its_own_ruid() {
    limited(secs(60), || {
        let fed = Fed::start("moves");
        let first = Contact { instance: text(b"<urn:uuid:1>"), ..contact("sip:bob@192.0.2.7:1", "r-1") };
        fed.update(b"bob", &first, b"r-1");
        let moved = Contact {
            uri: text(b"sip:bob@192.0.2.7:2"),
            path: text(b"<sip:e;lr>"),
            expires: first.expires - 300,
            cseq: 1,
            last_modified: first.last_modified - 100,
            ..first.clone()
        };
        fed.update(b"bob", &moved, b"r-1");
        let (_, held) = &fed.contacts()[&BString::from("r-1")];
        assert_eq!(held, &moved, "older, and still the last to arrive");

        let remove = |ruid: &[u8]| usrloc::encode_remove(b"bob", ruid).expect("a removal");
        fed.feed("usrloc", &remove(b"r-other"));
        assert_eq!(fed.contacts().len(), 1, "another ruid removes nothing");
        fed.feed("usrloc", &remove(b"r-1"));
        assert_eq!(fed.contacts().len(), 0);

        fed.update(b"bob", &first, b"r-2");
        let over = Contact {
            callid: text(b"starling-removes@node"),
            cseq: 1,
            expires: unix_now() - 1,
            last_modified: unix_now(),
            ..first
        };
        fed.update(b"bob", &over, b"any-ruid");
        eventually(PATIENCE, "a contact whose ruid we did not know is gone", || {
            same("contacts", fed.server.contacts_of("bob")?.len(), 0)
        });
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_applies_a_batch_in_order() {
    limited(secs(60), || {
        let fed = Fed::start("batch");
        fed.update(b"alice", &contact("sip:alice@192.0.2.7", "r-old"), b"r-old");
        let mut multi = usrloc::Multi::new(Generation::V5);
        multi.push_remove(b"alice", b"r-old").expect("a removal");
        multi.push_update(b"alice", &contact("sip:alice@192.0.2.7", "r-new"), b"r-new").expect("a contact");
        for n in 0..40 {
            let (aor, ruid) = (format!("user{n}"), format!("r-{n}"));
            let contact = contact(&format!("sip:{aor}@192.0.2.9"), &ruid);
            multi.push_update(aor.as_bytes(), &contact, ruid.as_bytes()).expect("a contact");
        }
        assert!(multi.len_bytes() > 10_000, "{} bytes", multi.len_bytes());
        fed.feed("usrloc", &multi.finish().expect("a batch"));
        let held = fed.contacts();
        assert_eq!(held.len(), 41);
        assert!(held.contains_key(&BString::from("r-new")), "the common ruid of both sides");
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_gives_back_every_entry_that_it_was_fed() {
    limited(secs(60), || {
        let fed = Fed::start("entries");
        let long = "x".repeat(20_000);
        let entries: [(&[u8], Value<'_>); 7] = [
            (b"int", Value::Int(42)),
            (b"least", Value::Int(i32::MIN.into())),
            (b"most", Value::Int(i32::MAX.into())),
            (b"k\"e\\y/1 \x01", Value::str("va\"l\\ue/1\n\t\x7f")),
            (b"schl\xfcssel", Value::str(b"caf\xe9 \xff")),
            (b"empty", Value::str("")),
            (b"long", Value::str(&long)),
        ];
        for (key, value) in &entries {
            let body = htable::encode_set(b"plain", key, value, None).expect("an entry");
            fed.feed("htable", &body);
        }
        let held = fed.cells();
        for (key, value) in &entries {
            let id = (BString::from("plain"), BString::from(*key));
            assert_eq!(held.get(&id), Some(&(value.clone().into_owned(), 0)));
        }
        assert_eq!(held.len(), entries.len());

        let delete = htable::encode_delete(b"plain", b"k\"e\\y/1 \x01").expect("a deletion");
        fed.feed("htable", &delete);
        fed.feed("htable", &delete);
        let over = htable::encode_set(b"plain", b"int", &Value::str("now text"), None);
        fed.feed("htable", &over.expect("an entry"));
        let held = fed.cells();
        assert_eq!(held.len(), entries.len() - 1);
        let id = (BString::from("plain"), BString::from("int"));
        assert_eq!(held[&id].0, Value::str("now text"));
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_applies_an_expiry_exactly_longer_and_shorter_than_the_tables() {
    limited(secs(60), || {
        let fed = Fed::start("expiries");
        for (key, seconds) in [(b"short", 77), (b"large", 100_000)] {
            let set = htable::encode_set(b"exp", key, &Value::str("v"), None);
            fed.feed("htable", &set.expect("an entry"));
            let expire = htable::encode_expire(b"exp", key, seconds);
            fed.feed("htable", &expire.expect("an expiry"));
            let id = (BString::from("exp"), BString::from(key.as_slice()));
            let (_, expire) = fed.cells()[&id];
            assert!(expire.abs_diff(unix_now() + u64::from(seconds)) <= 2, "{expire}");
        }
        let expire = htable::encode_expire(b"exp", b"short", 0);
        fed.feed("htable", &expire.expect("an expiry"));
        eventually(PATIENCE, "an entry that expires at once is gone", || same("entries", fed.cells().len(), 1));
    });
}

#[test]
#[ignore = "needs Kamailio 5.6: run cargo xtask test"]
fn a_server_takes_a_list_of_nodes_in_every_form_and_goes_on_answering() {
    limited(secs(60), || {
        let fed = Fed::start("list");
        let own = Host::loopback();
        let own_ip = own.ip.to_string();
        let nodes = [
            NodeLine::new(&own_ip, 5060, Transport::Udp, Status::Active),
            NodeLine::new("127.9.9.1", 5070, Transport::Tcp, Status::Active),
            NodeLine::new("127.9.9.2", 5071, Transport::Udp, Status::Disabled),
        ];
        let list = notification::encode(&nodes).expect("a list");
        let to = fed.server.sip();
        for body in [list.as_slice(), b"", &list] {
            let request = fed.peer.request(to, "notification_peer", body);
            let answer = fed.peer.send(to, &request).expect("an answer");
            assert_eq!(answer.status(), Some(200));
            let (listed, bad) = notification::decode(&answer.body);
            assert_eq!(bad, 0);
            assert!(listed.iter().any(|node| node.host == "127.9.9.1"), "{listed:?}");
        }
        fed.update(b"after", &contact("sip:after@192.0.2.7", "r-after"), b"r-after");
        assert_eq!(fed.contacts().len(), 1, "replication still works");
    });
}
