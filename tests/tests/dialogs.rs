//! Dialogs over HTTP and with the command line, at real processes.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use starling_tests::host::Host;
use starling_tests::http::Answer;
use starling_tests::starling::{Starling, StarlingConfig, meet};
use starling_tests::wait::{PATIENCE, eventually, limited, secs};

const ID: &str = "a84b4c76@pc33;1928301774";
const PATH: &str = "/v1/dialog/a84b4c76%40pc33%3B1928301774";

#[track_caller]
fn put(node: &Starling, path: &str, body: &Value) -> Answer {
    node.ask("PUT", path, Some(body)).expect("an answer")
}

#[track_caller]
fn done(node: &Starling, method: &str, path: &str, body: Option<&Value>) {
    let answer = node.change(method, path, body).expect("it is done");
    assert_eq!(answer, json!({ "ok": true }), "{method} {path}");
}

fn state_of(node: &Starling) -> anyhow::Result<Option<u64>> {
    let all = node.get("/v1/dialog")?;
    let rows = all.as_array().context("an array")?;
    Ok(rows.iter().find(|row| row["id"] == ID).and_then(|row| row["state"].as_u64()))
}

#[test]
fn a_dialog_is_made_goes_on_and_ends_and_all_of_it_is_shown_at_the_other_node() {
    limited(secs(60), || {
        let more = || StarlingConfig { more: "[dialog]\nmax_life = \"1h\"\n".to_owned(), ..StarlingConfig::default() };
        let first = Starling::start("n1", &Host::loopback(), &more());
        let join = vec![first.host.quic()];
        let second = Starling::start("n2", &Host::loopback(), &StarlingConfig { join, ..more() });
        meet(&[&first, &second]);
        assert_eq!(put(&first, PATH, &json!({ "state": 4 })).status, 404, "nobody said that it began");
        assert_eq!(put(&first, PATH, &json!({ "state": 9 })).status, 400);
        assert_eq!(put(&first, "/v1/dialog/only-a-callid", &json!({ "state": 1 })).status, 400);
        let invite = json!({ "state": 1, "from_uri": "sip:alice@h", "to_uri": "sip:bob@h", "lifetime": 90_000 });
        done(&first, "PUT", PATH, Some(&invite));
        done(&first, "PUT", PATH, Some(&json!({ "state": 4, "to_tag": "a6c85cf" })));
        done(&first, "PUT", &format!("{PATH}/var/account"), Some(&json!({ "value": "17" })));
        done(&first, "PUT", &format!("{PATH}/profile/out"), Some(&json!({ "value": "carrier 1" })));
        done(&first, "PUT", &format!("{PATH}/profile/all"), None);
        eventually(PATIENCE, "the other node has it", || {
            let row = second.get(PATH)?;
            ensure!(row["profiles"].as_array().is_some_and(|all| all.len() == 2), "{row}");
            Ok(())
        });
        let row = second.get(PATH).expect("a dialog");
        let (callid, from_uri) = (&row["callid"], &row["from_uri"]);
        assert_eq!((callid, from_uri, &row["state"]), (&json!("a84b4c76@pc33"), &json!("sip:alice@h"), &json!(4)));
        assert_eq!((&row["lifetime"], &row["vars"]), (&json!(3_600), &json!({ "account": "17" })), "{row}");
        assert_eq!(row["profiles"][1], json!({ "name": "out", "value": "carrier 1" }));
        assert_eq!(put(&second, PATH, &json!({ "state": 2 })).status, 409, "it does not go back");
        let shown = String::from_utf8(second.cli(&["dialog", "show", ID]).stdout).expect("text");
        assert!(shown.contains("4 confirmed") && shown.contains("account = 17"), "{shown}");
        let listed = String::from_utf8(second.cli(&["dialog", "list"]).stdout).expect("text");
        assert!(listed.contains(ID) && listed.contains("sip:bob@h"), "{listed}");
        done(&second, "DELETE", &format!("{PATH}/var/account"), None);
        assert_eq!(second.ask("DELETE", &format!("{PATH}/var/account"), None).expect("an answer").status, 404);
        done(&second, "DELETE", PATH, None);
        eventually(PATIENCE, "it is over", || {
            ensure!(state_of(&first)?.is_none() && state_of(&second)?.is_none(), "it is still there");
            Ok(())
        });
        assert_eq!(put(&first, PATH, &json!({ "state": 4 })).status, 409, "it has ended");
        assert_eq!(second.cli(&["dialog", "show", ID]).status.code(), Some(1));
    });
}
