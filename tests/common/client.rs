//! A Matrix client, as small as the tests allow.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use super::PATIENCE;

/// Most pages of `/messages` that are read: more would be an endless history.
const PAGES_MAX: usize = 200;

/// Makes a string one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The request, for messages.
    pub(crate) what: String,
    /// HTTP status.
    pub(crate) status: u16,
    /// Body; null where it is no JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// Returns the body of an answer that must be good.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}: {}", self.what, self.body);
        self.body
    }

    /// Checks that the request was refused so.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, errcode: &str) {
        let got = (self.status, self.body["errcode"].as_str().unwrap_or_default());
        assert_eq!(got, (status, errcode), "{}: {}", self.what, self.body);
    }
}

/// What a client has learnt by `/sync` since it logged in.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// Timelines of rooms, oldest first.
    pub(crate) timeline: HashMap<String, Vec<Value>>,
    /// Ephemeral events of rooms.
    pub(crate) ephemeral: HashMap<String, Vec<Value>>,
    /// `join`, `invite` or `leave`, by room.
    pub(crate) membership: HashMap<String, &'static str>,
}

impl Seen {
    /// Finds an event of a room.
    pub(crate) fn event(&self, room: &str, is: impl Fn(&Value) -> bool) -> Option<Value> {
        self.timeline.get(room)?.iter().find(|event| is(event)).cloned()
    }

    /// Finds a text message of a room.
    pub(crate) fn text(&self, room: &str, body: &str) -> Option<Value> {
        self.event(room, |event| event["content"]["body"] == body)
    }
}

/// A device, logged in.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
    /// `@p2p:<server name>`.
    pub(crate) user_id: String,
    /// The device.
    pub(crate) device_id: String,
    /// Where the next `/sync` goes on.
    pub(crate) next_batch: Option<String>,
    /// What came so far.
    pub(crate) seen: Seen,
}

impl Client {
    fn http() -> reqwest::Client {
        // The node closes a connection that was idle for 5 s; whoever uses it then gets an error.
        let idle = Duration::from_secs(2);
        reqwest::Client::builder().pool_idle_timeout(idle).build().unwrap()
    }

    /// Logs in by a login token.
    pub(crate) async fn log_in(base: &str, login_token: &str) -> Self {
        let body = json!({"type": "m.login.token", "token": login_token});
        Self::of(base, &open(base, "v3/login", &body).await.ok())
    }

    /// Logs in by a password.
    pub(crate) async fn by_password(base: &str, user: &str, password: &str) -> Self {
        Self::of(base, &open(base, "v3/login", &password_login(user, password)).await.ok())
    }

    /// Registers on a device `HOME`.
    pub(crate) async fn register(base: &str, name: &str, password: &str) -> Self {
        let body = json!({"username": name, "password": password, "device_id": "HOME",
            "auth": {"type": "m.login.dummy"}});
        Self::of(base, &open(base, "v3/register", &body).await.ok())
    }

    /// Goes on with what a login was answered.
    fn of(base: &str, login: &Value) -> Self {
        let http = Self::http();
        let text = |key: &str| login[key].as_str().unwrap().to_owned();
        Self {
            base: base.to_owned(),
            token: text("access_token"),
            user_id: text("user_id"),
            device_id: text("device_id"),
            http,
            next_batch: None,
            seen: Seen::default(),
        }
    }

    /// Returns the server name of the person's node.
    pub(crate) fn server_name(&self) -> &str {
        self.user_id.split_once(':').unwrap().1
    }

    /// Returns the access token.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Makes a request of `/_matrix/client/<path>`, and returns an error where no answer came.
    pub(crate) async fn try_request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, reqwest::Error> {
        let what = format!("{method} {path}");
        let url = format!("{}/_matrix/client/{path}", self.base);
        let mut request = self.http.request(method, url).bearer_auth(&self.token).timeout(PATIENCE);
        if let Some(body) = body {
            request = request.json(body);
        }
        try_ask(request, &what).await
    }

    /// Makes a request of `/_matrix/client/<path>`.
    pub(crate) async fn request(&self, method: Method, path: &str, body: Value) -> Answer {
        let body = (method != Method::GET).then_some(body);
        let answer = self.try_request(method, path, body.as_ref()).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, Value::Null).await
    }

    /// POST.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.request(Method::POST, path, body).await
    }

    /// PUT.
    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.request(Method::PUT, path, body).await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, json!({})).await
    }

    /// Takes what is new, waiting for it up to `wait`.
    pub(crate) async fn sync(&mut self, wait: Duration) -> Value {
        let filter = json!({"room": {"timeline": {"limit": 200}}}).to_string();
        let mut path = format!("v3/sync?timeout={}&filter={}", wait.as_millis(), segment(&filter));
        if let Some(since) = &self.next_batch {
            path += &format!("&since={}", segment(since));
        }
        let news = self.get(&path).await.ok();
        self.next_batch = Some(news["next_batch"].as_str().unwrap().to_owned());
        // What came to pass between two syncs may stand in several lists: one leaves, and is then
        // invited again.
        for membership in ["leave", "join", "invite"] {
            for (room, update) in news["rooms"][membership].as_object().into_iter().flatten() {
                self.seen.membership.insert(room.clone(), membership);
                let list = |part: &str| update[part]["events"].as_array().cloned();
                let timeline = list("timeline").unwrap_or_default();
                let older = match &update["timeline"]["prev_batch"] {
                    Value::String(from) if update["timeline"]["limited"] == true => {
                        self.missed(room, from).await
                    }
                    _ => Vec::new(),
                };
                let shown = self.seen.timeline.entry(room.clone()).or_default();
                shown.extend(older.into_iter().chain(timeline));
                let ephemeral = list("ephemeral").unwrap_or_default();
                self.seen.ephemeral.entry(room.clone()).or_default().extend(ephemeral);
            }
        }
        news
    }

    /// Pages back where a timeline leaves something out, as clients do, until a page has no news;
    /// returns what was not seen yet, oldest first. What was before the first sync stays there.
    async fn missed(&self, room: &str, from: &str) -> Vec<Value> {
        let Some(known) = self.seen.timeline.get(room) else { return Vec::new() };
        let mut from = from.to_owned();
        let mut missed = Vec::new();
        for _ in 0..PAGES_MAX {
            let path = format!(
                "v3/rooms/{}/messages?dir=b&limit=100&from={}",
                segment(room),
                segment(&from)
            );
            // Whoever is not in the room any more may not be let in again.
            let page = self.get(&path).await;
            let Some(events) = page.body["chunk"].as_array().filter(|_| page.status == 200) else {
                break;
            };
            let is_new =
                |event: &&Value| !known.iter().any(|one| one["event_id"] == event["event_id"]);
            let count = missed.len();
            missed.extend(events.iter().filter(is_new).cloned());
            match page.body["end"].as_str() {
                Some(end) if missed.len() > count => from = end.to_owned(),
                _ => break,
            }
        }
        missed.reverse();
        missed
    }

    /// Syncs until something was seen.
    pub(crate) async fn until<T>(&mut self, what: &str, look: impl Fn(&Seen) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(&self.seen) {
                return found;
            }
            assert!(Instant::now() < deadline, "{} never saw {what}", self.user_id);
            self.sync(Duration::from_secs(1)).await;
        }
    }

    /// Syncs until a text message was seen.
    pub(crate) async fn reads(&mut self, room: &str, body: &str) -> Value {
        self.until(&format!("the message {body:?}"), |seen| seen.text(room, body)).await
    }

    /// Syncs until somebody's membership is so, by events of the timeline.
    pub(crate) async fn sees_member(&mut self, room: &str, user: &str, membership: &str) {
        self.until(&format!("{user} as {membership}"), |seen| {
            let timeline = seen.timeline.get(room)?;
            let mut members = timeline
                .iter()
                .rev()
                .filter(|event| event["type"] == "m.room.member" && event["state_key"] == user);
            (members.next()?["content"]["membership"] == membership).then_some(())
        })
        .await;
    }

    /// Syncs until the room is one's own so (`join`, `invite`, `leave`).
    pub(crate) async fn is(&mut self, room: &str, membership: &str) {
        self.until(&format!("itself as {membership}"), |seen| {
            (*seen.membership.get(room)? == membership).then_some(())
        })
        .await;
    }

    /// Creates a room.
    pub(crate) async fn create(&self, body: Value) -> String {
        let answer = self.post("v3/createRoom", body).await.ok();
        answer["room_id"].as_str().unwrap().to_owned()
    }

    /// Creates a room in which everybody may invite, and invites.
    pub(crate) async fn create_with(&self, others: &[&Client]) -> String {
        let invite: Vec<&str> = others.iter().map(|other| other.user_id.as_str()).collect();
        self.create(json!({
            "preset": "private_chat",
            "invite": invite,
            "power_level_content_override": {"invite": 0},
        }))
        .await
    }

    /// Invites.
    pub(crate) async fn invite(&self, room: &str, user: &str) -> Answer {
        let path = format!("v3/rooms/{}/invite", segment(room));
        self.post(&path, json!({"user_id": user})).await
    }

    /// Joins.
    pub(crate) async fn join(&self, room: &str) -> Answer {
        self.post(&format!("v3/join/{}", segment(room)), json!({})).await
    }

    /// Leaves, or turns an invitation down.
    pub(crate) async fn leave(&self, room: &str) -> Answer {
        self.post(&format!("v3/rooms/{}/leave", segment(room)), json!({})).await
    }

    /// Sends a text message under a transaction id; an error where no answer came.
    pub(crate) async fn try_send(
        &self,
        room: &str,
        txn: &str,
        body: &str,
    ) -> Result<Answer, reqwest::Error> {
        let path = format!("v3/rooms/{}/send/m.room.message/{}", segment(room), segment(txn));
        let body = json!({"msgtype": "m.text", "body": body});
        self.try_request(Method::PUT, &path, Some(&body)).await
    }

    /// Sends a text message, with its text as the transaction id; returns the event id.
    pub(crate) async fn send(&self, room: &str, body: &str) -> String {
        let answer = self.try_send(room, body, body).await.unwrap().ok();
        answer["event_id"].as_str().unwrap().to_owned()
    }

    /// Sets a piece of state.
    pub(crate) async fn set_state(
        &self,
        room: &str,
        kind: &str,
        key: &str,
        content: Value,
    ) -> Answer {
        let (room, key) = (segment(room), segment(key));
        self.put(&format!("v3/rooms/{room}/state/{kind}/{key}"), content).await
    }

    /// Returns the content of a piece of state; null where there is none.
    pub(crate) async fn state(&self, room: &str, kind: &str, key: &str) -> Value {
        let (room, key) = (segment(room), segment(key));
        let answer = self.get(&format!("v3/rooms/{room}/state/{kind}/{key}")).await;
        if answer.status == 404 { Value::Null } else { answer.ok() }
    }

    /// Returns the event ids of the whole state, by type and state key.
    pub(crate) async fn whole_state(&self, room: &str) -> BTreeMap<(String, String), String> {
        let state = self.get(&format!("v3/rooms/{}/state", segment(room))).await.ok();
        let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
        state
            .as_array()
            .unwrap()
            .iter()
            .map(|e| ((text(e, "type"), text(e, "state_key")), text(e, "event_id")))
            .collect()
    }

    /// Returns an event of a room.
    pub(crate) async fn event(&self, room: &str, event: &str) -> Answer {
        self.get(&format!("v3/rooms/{}/event/{}", segment(room), segment(event))).await
    }

    /// Returns the whole history of a room, newest first.
    pub(crate) async fn messages(&self, room: &str) -> Vec<Value> {
        let mut history = Vec::new();
        let mut from = String::new();
        for _ in 0..PAGES_MAX {
            let path = format!("v3/rooms/{}/messages?dir=b&limit=100{from}", segment(room));
            let page = self.get(&path).await.ok();
            history.extend(page["chunk"].as_array().unwrap().iter().cloned());
            match page["end"].as_str() {
                Some(end) => from = format!("&from={}", segment(end)),
                None => return history,
            }
        }
        panic!("the history of {room} does not end");
    }

    /// Returns the texts of the whole history of a room, oldest first.
    pub(crate) async fn texts(&self, room: &str) -> Vec<String> {
        let history = self.messages(room).await;
        let bodies = history.iter().rev().filter_map(|event| event["content"]["body"].as_str());
        bodies.map(str::to_owned).collect()
    }

    /// Searches for people; returns user ids.
    pub(crate) async fn search(&self, term: &str) -> Vec<String> {
        let body = json!({"search_term": term, "limit": 10});
        let answer = self.post("v3/user_directory/search", body).await.ok();
        let results = answer["results"].as_array().unwrap();
        results.iter().map(|found| found["user_id"].as_str().unwrap().to_owned()).collect()
    }

    /// Sets one's own display name.
    pub(crate) async fn call_oneself(&self, name: &str) {
        let path = format!("v3/profile/{}/displayname", segment(&self.user_id));
        self.put(&path, json!({"displayname": name})).await.ok();
    }
}

/// The body of a login by password.
pub(crate) fn password_login(user: &str, password: &str) -> Value {
    json!({"type": "m.login.password", "password": password,
        "identifier": {"type": "m.id.user", "user": user}})
}

/// Posts to `/_matrix/client/<path>` without an access token.
pub(crate) async fn open(base: &str, path: &str, body: &Value) -> Answer {
    let request = Client::http().post(format!("{base}/_matrix/client/{path}")).json(body);
    ask(request.timeout(PATIENCE), path).await
}

/// Sends a request and reads the answer.
pub(crate) async fn ask(request: reqwest::RequestBuilder, what: &str) -> Answer {
    try_ask(request, what).await.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

async fn try_ask(request: reqwest::RequestBuilder, what: &str) -> Result<Answer, reqwest::Error> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let body = serde_json::from_str(&answer.text().await?).unwrap_or(Value::Null);
    Ok(Answer { what: what.to_owned(), status, body })
}
