use std::borrow::Cow;

use bstr::{BStr, BString};
use kdmq::notification::{NodeLine, Status, Transport};
use kdmq::{Channel, Generation, htable, life, notification, usrloc};
use proptest::prelude::*;
use tables::htable::Value;
use tables::location::Contact;

/// Every decoder over the same bytes; what they find is not asked.
fn decode_all(body: &[u8]) {
    let _ = usrloc::decode(body);
    let _ = htable::decode(body);
    let _ = notification::decode(body);
    let _ = Channel::from_user(body).name();
    let _ = Generation::from_agent(body);
    let _ = life::CallIdCounter::parse(body);
}

/// Bodies that reach deep into the decoders when they are damaged.
const BODIES: [&str; 6] = [
    r#"{"action":1,"aor":"al\u00e9","ruid":"r-1","c":"sip:a@h","received":"","sock":"udp:1","path":"<sip:e;lr>","callid":"q\"uo\\te","user_agent":"n/a","instance":"<urn>","expires":1795417914,"cseq":1,"flags":0,"cflags":0,"q":-1,"last_modified":1795417314,"methods":4294967295,"reg_id":0,"server_id":1,"xavps":{"a":[1,{"b":"c"}]},"new":null}"#,
    r#"{"multi":{"1":{"action":1,"aor":"a","ruid":"r","c":"c"},"2":{"action":2,"aor":"a","ruid":"r"}}}"#,
    r#"{"action":2,"htname":"t","cname":"k\ud83d\udd11","type":2,"strval":"v","last_modified":1795417392455,"mode":1}"#,
    r#"{"cells":[{"htname":"t","cname":"k","type":0,"intval":-2147483648,"expire":0},{"htname":"t","cname":"l","type":2,"strval":"","expire":1.5e9}]}"#,
    "sip:127.0.0.20:5070;status=active\r\nsip:[::1]:5061;transport=tcp;status=disabled\r\n",
    "0a6db7ce784fec38-32559@127.0.0.11",
];

fn text() -> impl Strategy<Value = Cow<'static, BStr>> {
    prop::collection::vec(1u8.., 0..24).prop_map(|text| Cow::Owned(BString::from(text)))
}

fn needed() -> impl Strategy<Value = Cow<'static, BStr>> {
    prop::collection::vec(1u8.., 1..24).prop_map(|text| Cow::Owned(BString::from(text)))
}

prop_compose! {
    /// A row that a server can hold: texts without NUL, times of 32 bit.
    fn row()(
        needed in (needed(), needed(), needed()),
        texts in prop::collection::vec(text(), 6),
        agent in needed(),
        numbers in any::<[u32; 6]>(),
        times in (0u64..1 << 31, 0u64..1 << 31),
        q in -1i32..=1000,
        json in any::<(bool, bool)>(),
    ) -> usrloc::Row<'static> {
        let mut texts = texts.into_iter();
        let mut text = move || texts.next().unwrap();
        let [cseq, methods, flags, cflags, reg_id, server_id] = numbers;
        usrloc::Row {
            aor: needed.0,
            contact: Contact {
                ruid: needed.1, uri: needed.2, user_agent: agent, received: text(), path: text(),
                callid: text(), instance: text(), sock: text(), sockname: text(), q, cseq, methods,
                flags, cflags, reg_id, server_id, expires: times.0, last_modified: times.1,
                xavps: json.0.then(|| Cow::Borrowed(BStr::new(r#"{"a":{"b":[1,"x"]}}"#))),
                unknown: json.1.then(|| Cow::Borrowed(BStr::new(r#""new":{"c":1}"#))),
            },
        }
    }
}

fn value() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![any::<i32>().prop_map(|int| Value::Int(int.into())), text().prop_map(Value::Str)]
}

/// The body with everything beyond ASCII replaced, which a strict parser must then accept: what is
/// copied raw may not be UTF-8.
fn is_strict(body: &[u8]) -> bool {
    let ascii: Vec<u8> = body.iter().map(|&byte| if byte.is_ascii() { byte } else { b'?' }).collect();
    serde_json::from_slice::<serde_json::Value>(&ascii).is_ok()
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(body: Vec<u8>) {
        decode_all(&body);
    }

    #[test]
    fn no_json_text_makes_a_decoder_panic(body in r#"([{}\[\]",:\\]|action|multi|cells|aor|htname|[0-9.eE+-]{1,4}|null|u00|\PC){0,40}"#) {
        decode_all(body.as_bytes());
    }

    #[test]
    fn no_damage_makes_a_decoder_panic(
        which in 0..BODIES.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        again in any::<bool>(),
    ) {
        let mut body = BODIES[which].as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if again {
            let tail = body.split_off(cut.index(body.len()));
            body.extend_from_slice(BODIES[which].as_bytes());
            body.extend_from_slice(&tail);
        }
        decode_all(&body);
        decode_all(&body[..cut.index(body.len() + 1)]);
    }

    #[test]
    fn any_row_survives_the_wire_of_the_newer_generation(row in row()) {
        let body = usrloc::encode_update(&row.aor, &row.contact, &row.contact.ruid, Generation::V6).unwrap();
        prop_assert!(is_strict(&body));
        let actions = usrloc::decode(&body).unwrap().actions;
        prop_assert_eq!(actions, [usrloc::Action::Update(row)]);
    }

    #[test]
    fn any_row_survives_the_wire_of_the_older_generation_but_for_what_that_lacks(row in row()) {
        let body = usrloc::encode_update(&row.aor, &row.contact, &row.contact.ruid, Generation::V5).unwrap();
        prop_assert!(is_strict(&body));
        let mut left = row;
        left.contact = Contact {
            sock: Cow::default(), sockname: Cow::default(), xavps: None, unknown: None, ..left.contact
        };
        let actions = usrloc::decode(&body).unwrap().actions;
        prop_assert_eq!(actions, [usrloc::Action::Update(left)]);
    }

    #[test]
    fn any_batch_survives_the_wire(rows in prop::collection::vec((any::<bool>(), row()), 1..8)) {
        let mut multi = usrloc::Multi::new(Generation::V6);
        for (update, row) in &rows {
            match update {
                true => multi.push_update(&row.aor, &row.contact, &row.contact.ruid).unwrap(),
                false => multi.push_remove(&row.aor, &row.contact.ruid).unwrap(),
            }
        }
        let body = multi.finish().unwrap();
        prop_assert!(is_strict(&body));
        let batch = usrloc::decode(&body).unwrap();
        prop_assert_eq!(batch.actions.len(), rows.len());
        for (found, (update, row)) in batch.actions.iter().zip(&rows) {
            match found {
                usrloc::Action::Update(found) => prop_assert!(*update && found == row),
                usrloc::Action::Remove(found) => {
                    prop_assert!(!update && found.aor == row.aor && found.contact.ruid == row.contact.ruid);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn any_entry_survives_the_wire(
        table in "[a-z0-9]{1,20}", key in needed(), value in value(), stamp in prop::option::of(1u64..1 << 50),
    ) {
        let table = Cow::Borrowed(BStr::new(table.as_bytes()));
        let body = htable::encode_set(&table, &key, &value, stamp).unwrap();
        prop_assert!(is_strict(&body));
        let found = htable::decode(&body).unwrap();
        let set = htable::Action::Set { table: table.clone(), key: key.clone(), value, last_modified: stamp };
        prop_assert_eq!(found, set);

        let body = htable::encode_delete(&table, &key).unwrap();
        prop_assert!(is_strict(&body));
        prop_assert_eq!(htable::decode(&body).unwrap(), htable::Action::Delete { table, key });
    }

    #[test]
    fn any_expiry_survives_the_wire(key in needed(), seconds in 0..=i32::MAX as u32) {
        let body = htable::encode_expire(b"t", &key, seconds).unwrap();
        prop_assert!(is_strict(&body));
        let table = Cow::Borrowed(BStr::new("t"));
        let expire = htable::Action::Expire { table, key: key.clone(), seconds: i64::from(seconds) };
        prop_assert_eq!(htable::decode(&body).unwrap(), expire);
    }

    #[test]
    fn any_list_survives_the_wire(nodes in prop::collection::vec((any::<std::net::Ipv4Addr>(), 1u16.., any::<bool>(), any::<bool>()), 0..=17)) {
        // More of them may be longer than a list may be.
        let line = |(host, port, tcp, active): &(std::net::Ipv4Addr, u16, bool, bool)| {
            let transport = if *tcp { Transport::Tcp } else { Transport::Udp };
            let status = if *active { Status::Active } else { Status::Disabled };
            (host.to_string(), *port, transport, status)
        };
        let lines: Vec<_> = nodes.iter().map(line).collect();
        let lines: Vec<_> = lines.iter().map(|(host, port, t, s)| NodeLine::new(host, *port, *t, *s)).collect();
        let body = notification::encode(&lines).unwrap();
        prop_assert!(body.is_empty() || body.ends_with(b"\r\n"));
        let (found, bad) = notification::decode(&body);
        prop_assert_eq!(bad, 0);
        let found: Vec<_> = found.iter().map(|node| NodeLine { raw: BStr::new(b""), ..*node }).collect();
        prop_assert_eq!(found, lines);
    }
}
