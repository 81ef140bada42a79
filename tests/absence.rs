//! Long absences: what a client scrolls through afterwards is what was said, each thing once and in
//! one order, whether it scrolls on from `/sync` or pages through the room from its end.

#![expect(
    clippy::indexing_slicing,
    reason = "helpers of tests are not covered by allow-*-in-tests"
)]

use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

mod common;

use common::{
    Home,
    client::{Client, segment},
    eventually, homes,
};

/// Requests of Ann's client at a time, as of somebody who pastes much.
const AT_ONCE: usize = 16;

/// What a client shows of a room: the timeline that it has, and where it would scroll on from.
#[derive(Default)]
struct Scrolled {
    /// Oldest first.
    events: Vec<Value>,
    before: Option<String>,
}

fn list(events: &Value) -> Vec<Value> {
    events.as_array().cloned().unwrap_or_default()
}

impl Scrolled {
    /// Takes what is new, as clients do: where the timeline was cut off they begin anew.
    async fn sync(&mut self, me: &mut Client, room: &str) {
        let news = me.sync(Duration::from_millis(200)).await;
        let timeline = &news["rooms"]["join"][room]["timeline"];
        if timeline["limited"] == true {
            *self = Self::default();
            self.before = timeline["prev_batch"].as_str().map(str::to_owned);
        }
        self.events.extend(list(&timeline["events"]));
    }

    /// Scrolls up to what is the first of all.
    async fn scroll(&mut self, me: &Client, room: &str) {
        while let Some(from) = self.before.take() {
            let from = segment(&from);
            let path = format!("v3/rooms/{}/messages?dir=b&limit=100&from={from}", segment(room));
            let page = me.get(&path).await.ok();
            self.events.splice(0..0, list(&page["chunk"]).into_iter().rev());
            self.before = page["end"].as_str().map(str::to_owned);
        }
    }

    /// Returns the texts, less what was redacted since it came.
    fn texts(&self) -> Vec<String> {
        let redacted: Vec<&str> =
            self.events.iter().filter_map(|event| event["redacts"].as_str()).collect();
        let left = self
            .events
            .iter()
            .filter(|event| event["event_id"].as_str().is_some_and(|id| !redacted.contains(&id)));
        left.filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
    }
}

#[tokio::test]
async fn what_was_said_in_a_long_absence_is_there_once_and_in_one_order() {
    let [mut ann, mut bob]: [Home; 2] = homes().await;
    let room = ann.me.create_with(&[&bob.me]).await;
    bob.me.is(&room, "invite").await;
    bob.me.join(&room).await.ok();
    ann.me.sees_member(&room, &bob.me.user_id, "join").await;
    let mut said = Vec::new();
    let mut seen = Scrolled::default();
    for away in [10, 500, 1_000, 5_000] {
        bob.node.kill();
        let missed: Vec<String> = (0..away).map(|n| format!("{n} of {away}")).collect();
        let (me, room_id) = (&ann.me, room.as_str());
        let sent = stream::iter(&missed).map(|text| me.send(room_id, text));
        let sent = sent.buffered(AT_ONCE).collect::<Vec<_>>().await;
        // Whoever comes back gets this one without its content, and so it has another hash.
        let redact = format!("v3/rooms/{}/redact/{}/{away}", segment(&room), segment(&sent[3]));
        ann.me.put(&redact, json!({})).await.ok();
        bob.node.start_again().await;
        let (again, back) = (format!("again after {away}"), format!("back after {away}"));
        ann.me.send(&room, &again).await;
        eventually("what is said last", async || {
            seen.sync(&mut bob.me, &room).await;
            seen.texts().contains(&again).then_some(())
        })
        .await;
        bob.me.send(&room, &back).await;
        ann.me.reads(&room, &back).await;
        seen.sync(&mut bob.me, &room).await;
        said = ann.me.texts(&room).await;
        assert_eq!(said.iter().filter(|text| missed.contains(text)).count(), away - 1);
        let paged = eventually("all that was missed", async || {
            let paged = bob.me.texts(&room).await;
            (paged.len() >= said.len()).then_some(paged)
        })
        .await;
        assert!(paged == said, "after {away}, by paging: {}", difference(&said, &paged));
        seen.scroll(&bob.me, &room).await;
        let scrolled = seen.texts();
        assert!(scrolled == said, "after {away}, by scrolling: {}", difference(&said, &scrolled));
    }
    // Who comes with a new device sees the same.
    let mut phone = bob.node.log_in().await;
    let mut anew = Scrolled::default();
    anew.sync(&mut phone, &room).await;
    anew.scroll(&phone, &room).await;
    let anew = anew.texts();
    assert!(anew == said, "on a new device: {}", difference(&said, &anew));
}

/// Tells where two histories begin to differ.
fn difference(right: &[String], shown: &[String]) -> String {
    let same = right.iter().zip(shown).take_while(|(right, shown)| right == shown).count();
    let around = |texts: &[String]| {
        texts.iter().skip(same.saturating_sub(1)).take(4).cloned().collect::<Vec<_>>().join(" | ")
    };
    format!(
        "{} instead of {}; from {same} on {} instead of {}",
        shown.len(),
        right.len(),
        around(shown),
        around(right)
    )
}
