//! Dialogs at two nodes, with a split between them.

use super::cluster;
use super::net::Net;
use crate::command::{Command, CommandError, CommandOk, DialogId, DialogState, DialogUpdate};
use crate::config::Config;
use crate::cx::Cx;
use crate::dmq::Facts;
use crate::execute;
use crate::io::Input;
use crate::query::dialog::dialog_view;
use crate::view::DialogView;

type Answer = Result<CommandOk, CommandError>;

fn id(callid: &str) -> DialogId {
    DialogId { callid: callid.into(), from_tag: "t".into() }
}

fn update(callid: &str, state: DialogState) -> DialogUpdate {
    let uri = |user: &str| format!("sip:{user}@example.org").into();
    DialogUpdate {
        id: id(callid),
        state,
        to_tag: "x".into(),
        from_uri: uri("alice"),
        to_uri: uri("bob"),
        lifetime_s: None,
        start: None,
    }
}

impl Net {
    fn command(&mut self, node: usize, command: Command) -> Answer {
        let now = self.node_now(node);
        let of = &mut self.nodes[node];
        let (config, replica) = (&of.config, &mut of.replica);
        let mut cx = Cx { now, config, replica, out: &mut of.out, stats: &mut of.stats };
        let answer = execute::execute(command, &Facts::default(), &mut cx);
        self.input(node, Input::Tick);
        answer
    }

    fn state(&mut self, node: usize, callid: &str, state: DialogState) -> Answer {
        self.command(node, Command::DialogSet(Box::new(update(callid, state))))
    }

    fn var(&mut self, node: usize, callid: &str, name: &str, value: Option<&str>) -> Answer {
        self.command(node, Command::DialogVar { id: id(callid), name: name.into(), value: value.map(Into::into) })
    }

    fn profile(&mut self, node: usize, callid: &str, name: &str, counts: bool) -> Answer {
        self.command(node, Command::DialogProfile { id: id(callid), name: name.into(), value: None, counts })
    }

    fn end(&mut self, node: usize, callid: &str) -> Answer {
        self.command(node, Command::DialogEnd(id(callid)))
    }

    fn dialog(&self, node: usize, callid: &str) -> Option<DialogView> {
        dialog_view(&self.nodes[node].replica, format!("{callid};t").as_bytes(), self.node_now(node))
    }

    /// States of a dialog at both nodes; 0: none is shown.
    fn states(&self, callid: &str) -> [u8; 2] {
        [0, 1].map(|node| self.dialog(node, callid).map_or(0, |dialog| dialog.state))
    }
}

const NAMES: [&str; 6] = ["both-go-on", "ended-here", "ended-there", "ended-twice", "vars", "unseen"];

#[test]
fn of_a_dialog_that_both_sides_of_a_split_went_on_with_the_greater_state_wins() {
    let mut net = cluster(40, 2, true);
    for name in &NAMES[..5] {
        assert_eq!(net.state(0, name, DialogState::Unconfirmed), Ok(CommandOk::Done));
    }
    assert_eq!(net.var(0, "vars", "a", Some("before")), Ok(CommandOk::Done));
    assert_eq!(net.var(0, "ended-here", "a", Some("before")), Ok(CommandOk::Done));
    net.until(1_000, "equal", Net::equal);
    net.cut(0, 1);
    // The lower state is the later one, everywhere.
    net.state(0, "both-go-on", DialogState::Confirmed).unwrap();
    net.run(20_000);
    net.state(1, "both-go-on", DialogState::Early).unwrap();
    assert_eq!(net.end(0, "ended-here"), Ok(CommandOk::Count(1)));
    assert_eq!(net.end(1, "ended-there"), Ok(CommandOk::Count(1)));
    for node in 0..2 {
        assert_eq!(net.end(node, "ended-twice"), Ok(CommandOk::Count(1)));
    }
    net.state(0, "unseen", DialogState::Unconfirmed).unwrap();
    assert_eq!(net.end(1, "unseen"), Ok(CommandOk::Count(0)), "its news has not come, and it ends all the same");
    net.run(20_000);
    net.state(1, "ended-here", DialogState::Confirmed).unwrap();
    net.var(1, "ended-here", "a", Some("after")).unwrap();
    net.profile(1, "ended-here", "late", true).unwrap();
    net.state(0, "ended-there", DialogState::Confirmed).unwrap();
    net.var(0, "vars", "a", Some("here")).unwrap();
    net.var(0, "vars", "b", Some("here")).unwrap();
    net.run(1_000);
    net.var(1, "vars", "a", Some("there")).unwrap();
    net.profile(1, "vars", "out", true).unwrap();
    net.heal_all();
    net.until(5_000, "equal again", Net::equal);
    assert_eq!(net.states("both-go-on"), [4, 4]);
    for ended in &["ended-here", "ended-there", "ended-twice", "unseen"] {
        assert_eq!(net.states(ended), [0, 0], "{ended}");
        for node in 0..2 {
            assert_eq!(net.state(node, ended, DialogState::Confirmed), Err(CommandError::DialogEnded));
            assert_eq!(net.var(node, ended, "a", Some("x")), Err(CommandError::DialogEnded));
        }
    }
    for node in 0..2 {
        let vars = net.dialog(node, "vars").unwrap();
        let shown: Vec<_> = vars.vars.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(shown, ["a=there", "b=here"]);
        assert_eq!(vars.profiles.len(), 1);
    }
}

#[test]
fn whoever_ends_a_dialog_removes_the_variables_and_profiles_that_it_sees() {
    let mut net = cluster(41, 2, false);
    net.state(0, "d", DialogState::Confirmed).unwrap_err();
    net.state(0, "d", DialogState::Unconfirmed).unwrap();
    net.var(0, "d", "a", Some("1")).unwrap();
    net.profile(0, "d", "out", true).unwrap();
    net.until(1_000, "equal", Net::equal);
    let cells = |net: &Net, node: usize| net.nodes[node].replica.digest(net.node_now(node).wall).cells;
    assert_eq!(cells(&net, 1), 3);
    net.end(1, "d").unwrap();
    net.until(1_000, "equal", Net::equal);
    assert_eq!([cells(&net, 0), cells(&net, 1)], [0, 0]);
}

#[test]
fn what_was_said_of_a_dialog_too_late_or_too_early_changes_nothing() {
    let mut net = cluster(42, 1, false);
    assert_eq!(net.state(0, "d", DialogState::Early), Err(CommandError::NotFound), "made by its INVITE");
    assert_eq!(net.var(0, "d", "a", Some("1")), Err(CommandError::NotFound));
    net.state(0, "d", DialogState::Unconfirmed).unwrap();
    net.state(0, "d", DialogState::Confirmed).unwrap();
    let back = CommandError::StateGoesBack { held: 4, asked: 2 };
    assert_eq!(net.state(0, "d", DialogState::Early), Err(back));
    assert_eq!(net.state(0, "d", DialogState::Confirmed), Ok(CommandOk::Done), "a re-INVITE");
    assert!(matches!(net.state(0, "d", DialogState::Deleted), Err(CommandError::Invalid(_))));
    assert_eq!(net.var(0, "d", "a", None), Err(CommandError::NotFound));
    assert!(matches!(net.var(0, "d", "", Some("1")), Err(CommandError::Invalid(_))));
    assert!(matches!(net.state(0, "a;b", DialogState::Unconfirmed), Err(CommandError::Invalid(_))));
    assert_eq!(net.dialog(0, "d").unwrap().state, 4);
    assert_eq!([net.end(0, "d"), net.end(0, "d")], [Ok(CommandOk::Count(1)), Ok(CommandOk::Count(0))]);
    assert_eq!(net.state(0, "d", DialogState::Unconfirmed), Err(CommandError::DialogEnded));
}

#[test]
fn a_dialog_ends_with_its_lifetime_and_never_outlives_its_table() {
    let mut net = cluster(43, 1, false);
    let short = DialogUpdate { lifetime_s: Some(20), ..update("short", DialogState::Unconfirmed) };
    let began = net.node_now(0).wall.secs() - 3_590;
    let old = DialogUpdate { start: Some(began), lifetime_s: Some(600), ..update("old", DialogState::Confirmed) };
    let older = DialogUpdate { start: Some(began - 20), ..update("older", DialogState::Confirmed) };
    for update in [short, old] {
        net.command(0, Command::DialogSet(Box::new(update))).unwrap();
    }
    assert!(matches!(net.command(0, Command::DialogSet(Box::new(older))), Err(CommandError::Invalid(_))));
    assert_eq!(net.dialog(0, "old").unwrap().expires, began + 3_600);
    net.var(0, "old", "a", Some("1")).unwrap();
    net.run(11_000);
    assert!(net.dialog(0, "old").is_none() && net.dialog(0, "short").is_some());
    net.run(10_000);
    assert!(net.dialog(0, "short").is_none());
    assert_eq!(net.state(0, "short", DialogState::Early), Err(CommandError::DialogEnded));
}

#[test]
fn nodes_whose_dialogs_live_for_different_times_have_different_rules() {
    let config = |dialog_max_life_s| Config { dialog_max_life_s, ..super::config(0, false) };
    let fingerprint = |secs| execute::rules(&config(secs)).fingerprint();
    assert_eq!(fingerprint(3_600), fingerprint(3_600));
    assert_ne!(fingerprint(3_600), fingerprint(3_601));
}

#[test]
fn a_dialog_has_so_many_variables_and_no_more() {
    let mut net = cluster(44, 1, false);
    net.state(0, "d", DialogState::Unconfirmed).unwrap();
    for n in 0..64 {
        net.var(0, "d", &format!("v{n}"), Some("1")).unwrap();
    }
    assert!(matches!(net.var(0, "d", "more", Some("1")), Err(CommandError::Invalid(_))));
    net.var(0, "d", "v7", Some("2")).unwrap();
    net.var(0, "d", "v8", None).unwrap();
    net.profile(0, "d", "instead", true).unwrap();
}
