//! Limits that are more than one file's business. Each says what it bounds; none is configurable until
//! somebody needs it to be, as those of a relay are ([`super::RelayConfig`]). `docs/limits.md` lists them with
//! those that are one file's own.

use std::time::Duration;

/// Windows that may show the status page at once: each gets all of it, each second at most.
pub const STATUS_WINDOWS: usize = 8;
/// Doctors who look at the node at once, called from the page.
pub const DOCTORS: usize = 1;
/// Rooms that it shows; of more it says how many.
pub const STATUS_ROOMS: usize = 50;
/// Pause between two looks at all that it shows, while anybody looks at it.
pub const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Pause between two readings of the counters, for its plots.
pub const STATUS_SAMPLE: Duration = Duration::from_secs(10);
/// These readings: an hour of them.
pub const STATUS_SAMPLES: usize = 360;
/// How long a browser that opened it with a login token may look at it.
pub const STATUS_PASS: Duration = Duration::from_secs(12 * 60 * 60);
/// Members of a room who are named where a list of rooms is shown.
pub const FACE_PEOPLE: usize = 50;
/// Servers of a room of which it is kept how much of it they have.
pub const HELD_SERVERS: usize = 64;
/// Servers that an invite names beside the inviter's: as many as a join asks.
pub const INVITE_VIA: usize = 8;
/// Members' servers with which heads are compared when we have come into a room.
pub const COMPARED_ON_JOIN: usize = 8;
/// Requests of other servers, and gossip, in work at once, in the whole node.
pub const WORK_NODE: usize = 1024;
/// Requests of clients in work at once. They have places of their own, which no server can take.
pub const WORK_CLIENTS: usize = 256;
/// Requests of one peer in work at once, and as many of its gossip messages.
pub const WORK_PEER: usize = 32;
/// Bytes of the requests of one peer in work at once: the largest one, and as much again. Read, they
/// take several times that.
pub const WORK_PEER_LEN: usize = 4 * 1024 * 1024;
/// PDUs and EDUs that one server may send in a burst: what a busy room says in a minute.
pub const SAID_BURST: f64 = 500.0;
/// The same each second in the long run. People say less; what a program says faster comes when
/// heads are compared.
pub const SAID_PER_SECOND: f64 = 50.0;
/// Mailbox of an actor: as many as the permits, so that sends never wait.
pub const MAILBOX: usize = 2048;
/// Commands waiting for the Swarm.
pub const SWARM_COMMANDS: usize = 256;
/// Events of the Swarm waiting for its actor.
pub const SWARM_EVENTS: usize = 1024;
/// Largest gossip message that is published; the gossipsub limit is 1 KiB more, since a
/// message at the very limit also loses the next one.
pub const GOSSIP_MESSAGE: usize = 511 * 1024;
/// Largest PDU that is gossiped, its `server_keys` included. Of larger ones the heads of the
/// room are announced and whoever lacks them asks: a mesh would send each of them several
/// times, and everything else waits behind.
pub const GOSSIP_INLINE: usize = 32 * 1024;
/// Largest body of a client request, uploads aside.
pub const CLIENT_BODY: usize = 256 * 1024;
/// Most events a client gets in one page.
pub const PAGE: usize = 1000;
/// Most timeline events a room in one `/sync`.
pub const SYNC_TIMELINE: usize = 200;
/// Longest wait of a `/sync`.
pub const SYNC_WAIT: Duration = Duration::from_secs(60);
/// Longest wait for the verdict on a gossip message; gossipsub forgets it after 12 s.
pub const VERDICT_WAIT: Duration = Duration::from_secs(4);
/// Longest wait of a search for people.
pub const SEARCH_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for an answer of another server, finding it included.
pub const FEDERATION_WAIT: Duration = Duration::from_secs(30);
/// How long a room without work stays in memory.
pub const ROOM_IDLE: Duration = Duration::from_secs(10 * 60);
/// Bytes of a profile with all of its fields, as the specification has it.
pub const PROFILE_LEN: usize = 64 * 1024;
/// Pushers of a user: more than anybody has devices that are pushed to.
pub const PUSHERS: usize = 32;
/// Push gateways that are asked at once.
pub const PUSHES_AT_ONCE: usize = 8;
/// Bytes of a push; of a larger one the content is left out.
pub const PUSH_LEN: usize = 32 * 1024;
/// Events that notified a user, of which a list is kept.
pub const NOTIFIED: u64 = 1000;
/// Largest value of a row in the Store; larger ones could brick the database.
pub const ROW: usize = 100 * 1024;
/// Bytes of a file of the journal; a group of writes that is larger has one of its own.
pub const JOURNAL_FILE: u64 = 64 * 1024 * 1024;
/// Bytes of rows in an old file of the journal that are looked at, and written again, at a time.
pub const JOURNAL_PORTION: usize = 64 * 1024;
/// Bytes of rows in the journal that wait for the database: with more, they are brought there.
pub const FOLLOW_LEN: usize = 256 * 1024;
/// With this much, whoever writes waits until the database has taken what it takes.
pub const FOLLOW_MAX: usize = 8 * 1024 * 1024;
/// With less, they are brought to the database after this long.
pub const FOLLOW_AFTER: Duration = Duration::from_millis(200);
/// Damaged databases that are kept beside the one that took their place, and journals.
pub const SET_ASIDE: usize = 2;
/// State groups between two full snapshots.
pub const GROUP_CHAIN: u32 = 100;
/// PDUs of one room that wait for missing events.
pub const ROOM_PARKED: usize = 2000;
/// Bytes of these PDUs.
pub const ROOM_PARKED_LEN: usize = 16 * 1024 * 1024;
/// Events asked for in one `get_missing_events` or `backfill`.
pub const MISSING_PAGE: usize = 100;
/// Joined users of one server in one room: a household, and whatever works for it. Names cost
/// nothing to make up.
pub const ROOM_USERS_OF_SERVER: usize = 32;
/// Rounds of fetching for one gap.
pub const MISSING_ROUNDS: usize = 50;
/// Rooms in one message that compares heads: about 20 KiB.
pub const HEADS_ROOMS: usize = 256;
/// Forward extremities of one room that are told, and looked at.
pub const HEADS: usize = 20;
/// Events in one answer about what is missing in rooms; each of many rooms has [`MISSING_PAGE`].
pub const MISSING_EVENTS: usize = 1000;
/// Bytes of these events, after which no other one is added.
pub const MISSING_LEN: usize = 1024 * 1024;
/// Ids of missing events that are named of one room.
pub const MISSING_IDS_ROOM: usize = 4096;
/// Ids of missing events in one answer: about 1 MiB.
pub const MISSING_IDS: usize = 20_000;
/// Events of a room that are fetched in one go, oldest first; where more are missing the room goes on
/// behind a gap.
pub const CATCH_UP_ROOM: usize = 50_000;
/// Events that are asked for, or came and wait for others before them, of all rooms together.
pub const CATCH_UP_EVENTS: usize = 4000;
/// How often a page is fetched of what is missing in the middle of a room's history.
pub const FILL_EVERY: Duration = Duration::from_secs(10);
/// Requests for one such page: 1,000 events.
pub const FILL_REQUESTS: usize = 10;
/// Such pages of one room before it rests: 500,000 events, and a liar's history has no end.
pub const FILL_PAGES: u32 = 500;
/// How long it rests, in milliseconds.
pub const FILL_REST_MS: u64 = 24 * 60 * 60 * 1000;
/// Rooms with such gaps that are kept in mind; of more, when there is place.
pub const GAPS_ROOMS: usize = 1000;
/// Rooms that are looked at for gaps at once.
pub const GAPS_LOOK: usize = 100;
/// A gap of which nothing came is tried again after twice this long, in milliseconds; doubled each
/// time.
pub const GAP_AGAIN_MS: u64 = 10 * 1000;
/// Longest pause between two tries.
pub const GAP_AGAIN_MAX_MS: u64 = 10 * 60 * 1000;
/// Invites of one server that wait for an answer, where a room is shared with it.
pub const INVITES_MEMBER: usize = 100;
/// The same where none is: a first chat, and a group or two.
pub const INVITES_STRANGER: usize = 5;
/// Invites of all servers with which no room is shared: more than anybody would read.
pub const INVITES_STRANGERS: usize = 50;
/// How long what somebody left here keeps its place with whom no closed room is shared: after that it
/// gives way to what another stranger sends.
pub const STRANGER_KEPT_MS: u64 = 14 * 24 * 60 * 60 * 1000;
/// To-device messages of one server that wait for our devices, where a room is shared with it: keys
/// for many devices, while ours are off for weeks.
pub const TO_DEVICE_MEMBER: usize = 10_000;
/// The same where none is: a verification, the keys of a first chat.
pub const TO_DEVICE_STRANGER: usize = 100;
/// To-device messages of all servers with which no room is shared.
pub const TO_DEVICE_STRANGERS: usize = 500;
/// How long a to-device message that was handled is known again, in milliseconds: 45 days, half as
/// long again as anybody keeps one for somebody who is off.
pub const TO_DEVICE_SEEN_MS: u64 = 45 * 24 * 60 * 60 * 1000;
/// To-device messages of one server that are known again.
pub const TO_DEVICE_SEEN: usize = 4096;
/// Those of all servers.
pub const TO_DEVICE_SEEN_ALL: usize = 16 * TO_DEVICE_SEEN;
/// Largest to-device message, as long as an event may be.
pub const TO_DEVICE_LEN: usize = 64 * 1024;
/// Bytes of the messages of one server that wait, where a room is shared with it: of most keys,
/// as many as are counted by number.
pub const TO_DEVICE_MEMBER_LEN: usize = 16 * 1024 * 1024;
/// The same where none is.
pub const TO_DEVICE_STRANGER_LEN: usize = 512 * 1024;
/// Bytes of the messages of all servers with which no room is shared.
pub const TO_DEVICE_STRANGERS_LEN: usize = 4 * 1024 * 1024;
/// Bytes of all that wait: a small part of any disk.
pub const TO_DEVICE_ALL_LEN: usize = 64 * 1024 * 1024;
/// To-device messages in one `/sync`, as other homeservers have it.
pub const TO_DEVICE_SYNC: usize = 100;
/// Bytes of these, after which no other one is added.
pub const TO_DEVICE_SYNC_LEN: usize = 1024 * 1024;
/// Threads of a room of which the receipts of one person are kept: the newest.
pub const RECEIPT_THREADS: usize = 100;
/// Rows of the address book of one server, which may have several nodes: the last seen.
pub const BOOK_NODES: usize = 4;
/// Rows of the address book of servers with which no room is shared: the last seen.
pub const BOOK_STRANGERS: usize = 1000;
/// PDUs in one transaction (Server-Server API).
pub const TRANSACTION_PDUS: usize = 50;
/// EDUs in one transaction.
pub const TRANSACTION_EDUS: usize = 100;
/// How long something is owed to a server that is not reached.
pub const OWED_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Items that one server is owed.
pub const OWED_SERVER: usize = 512;
/// Bytes of these.
pub const OWED_SERVER_LEN: usize = 8 * 1024 * 1024;
/// Items that all servers are owed.
pub const OWED_ALL: usize = 16_384;
/// Bytes of these.
pub const OWED_ALL_LEN: usize = 64 * 1024 * 1024;
/// Bytes of one: others must be able to carry it.
pub const OWED_LEN: usize = 768 * 1024;
/// Items that came to an end and are still shown.
pub const OWED_ENDED: usize = 128;
/// Events of a room that are owed together, since nobody else is known to have them.
pub const OWED_EVENTS: usize = 50;
/// Bytes of these, of which the last may go beyond.
pub const OWED_EVENTS_LEN: usize = 64 * 1024;
/// Servers of a room up to which they are owed to each.
pub const OWED_MEMBERS: usize = 32;
/// Servers that are sent at once what they are owed: each that is off costs a search.
pub const OWED_AT_ONCE: usize = 8;
/// Devices of one user that have keys, ours or another server's.
pub const DEVICES_USER: usize = 200;
/// One-time keys of one device that wait to be claimed, of each algorithm: clients keep 50 to 100.
pub const ONE_TIME_KEYS: usize = 200;
/// Algorithms of one-time keys, and of fallback keys, of one device.
pub const KEY_ALGORITHMS: usize = 8;
/// One-time keys of one device that were claimed and are known again.
pub const CLAIMED_KEYS: usize = 400;
/// How long a fallback key that room-mates keep counts as unused, in milliseconds: they tell nobody
/// when they use it, so the client is asked for a new one every week.
pub const FALLBACK_UNUSED_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// Bytes of the keys of one user of another server that are kept.
pub const KEY_LIST_LEN: usize = 512 * 1024;
/// Users of other servers whose keys are kept.
pub const KEY_LISTS: usize = 4096;
/// How long a key bundle counts, in milliseconds: as long as what is sent to who is off is kept.
pub const KEY_BUNDLE_MS: u64 = OWED_MS;
/// After which a bundle of a user of ours is signed anew, in milliseconds: so that who goes off is known for
/// most of that time.
pub const KEY_BUNDLE_RENEWED_MS: u64 = 3 * 24 * 60 * 60 * 1000;
/// Key bundles in one answer, and users of one other server whose bundles are kept.
pub const KEY_BUNDLES_SERVER: usize = 32;
/// Bytes of the bundles in one answer, of which the last may go beyond.
pub const KEY_BUNDLES_LEN: usize = 512 * 1024;
/// Bytes of the bundles of users of one other server that are kept.
pub const KEY_BUNDLES_SERVER_LEN: usize = 2 * 1024 * 1024;
/// Bytes of all of them.
pub const KEY_BUNDLES_ALL_LEN: usize = 64 * 1024 * 1024;
/// Servers that are to be asked for bundles; whoever comes beyond them is asked when met again.
pub const KEY_BUNDLES_WANTED: usize = 4096;
/// Room-mates of somebody who is off that are asked for the keys, one after another.
pub const KEY_BUNDLE_ASKED: usize = 8;
/// Users in one request for keys of whom room-mates are asked.
pub const KEY_BUNDLES_LOOKED: usize = 100;
/// After which room-mates are asked beside the user's own server, which has not answered.
pub const KEY_BUNDLE_AFTER: Duration = Duration::from_secs(1);
/// How long one of them has for its answer.
pub const KEY_BUNDLE_WAIT: Duration = Duration::from_secs(4);
/// How often they are asked for the keys of the same user.
pub const KEY_BUNDLE_EVERY: Duration = Duration::from_secs(10 * 60);
/// Users, and devices, in one request for keys.
pub const KEYS_ASKED: usize = 5000;
/// Other servers that are asked for keys at once, for one request or by ourselves.
pub const KEYS_AT_ONCE: usize = 16;
/// One-time keys of one device that one other server gets at once: enough for some people with some
/// devices each. Beyond it the fallback key serves.
pub const CLAIMS: u32 = 40;
/// How long it takes until it gets one more.
pub const CLAIM_EVERY: Duration = Duration::from_secs(5 * 60);
/// Pairs of a server and a device that are counted for it; who comes beyond them gets fallback keys.
pub const CLAIM_SHARES: usize = 10_000;
/// Rows that the database is asked for in one message.
pub const ROWS_READ: usize = 250;
/// Bytes after which a page of rows ends.
pub const ROWS_PAGE: usize = 1024 * 1024;
/// Users of others whose keys one of our users signed.
pub const KEY_SIGNATURES: usize = 4096;
/// Backups of room keys that a user has.
pub const BACKUPS: usize = 32;
/// Bytes of the room keys of one user that are backed up, in all versions.
pub const BACKUP_LEN: u64 = 64 * 1024 * 1024;
/// Bytes of one of them.
pub const BACKED_UP_LEN: usize = 16 * 1024;
/// People who are registered on a node beside its owner: as many as are let into one room with them.
pub const REGISTERED: usize = ROOM_USERS_OF_SERVER - 1;
/// The same with those whose accounts ended: their names are given to nobody else.
pub const REGISTERED_EVER: usize = 256;
/// Longest name that is part of a user id here, in bytes.
pub const LOCALPART_LEN: usize = 64;
/// Devices of one user that are logged in.
pub const DEVICES_LOGGED_IN: usize = 500;
/// Shortest password, in characters.
pub const PASSWORD_CHARS: usize = 8;
/// Longest one, in bytes.
pub const PASSWORD_LEN: usize = 512;
/// Passwords that are compared or set, and wait for their turn: each takes some 50 ms.
pub const HASHES_WAITING: usize = 16;
/// Tries of the password of one person, or of the token that lets people register, in a burst from
/// one place.
pub const TRIES_BURST: f64 = 10.0;
/// The same each second in the long run: one in ten seconds.
pub const TRIES_PER_SECOND: f64 = 0.1;
/// Places, and whom was tried there, that are remembered.
pub const TRIES_KEPT: usize = 1024;
/// How long a session of user-interactive authentication counts, in milliseconds.
pub const UIA_MS: u64 = 15 * 60 * 1000;
/// Sessions of it that were approved, and that were used, and would still count.
pub const UIA_KEPT: usize = 1024;
/// How long an access token of a client counts that refreshes its own, in milliseconds.
pub const ACCESS_TOKEN_MS: u64 = 60 * 60 * 1000;
/// Pieces of media that are known, ours and others'.
pub const MEDIA: usize = 50_000;
/// Those of one user of ours.
pub const MEDIA_USER: usize = 20_000;
/// Ids of one user that were given out and wait for what is to be uploaded.
pub const MEDIA_CREATED: usize = 100;
/// How long they wait, in milliseconds: as the specification advises.
pub const MEDIA_CREATED_MS: u64 = 24 * 60 * 60 * 1000;
/// Uploads at once, of all our users.
pub const MEDIA_UPLOADS: usize = 16;
/// Those of one user.
pub const MEDIA_UPLOADS_USER: usize = 4;
/// How long an upload may bring nothing.
pub const MEDIA_UPLOAD_IDLE: Duration = Duration::from_secs(30);
/// Downloads at once: each takes half a MiB of memory.
pub const MEDIA_DOWNLOADS: usize = 64;
/// Pieces that are read for other servers at once, each time up to four.
pub const MEDIA_GIVEN: usize = 32;
/// Bytes of media that one other server gets in a burst: a film.
pub const MEDIA_GIVEN_BURST: f64 = 1024.0 * 1024.0 * 1024.0;
/// The same each second in the long run.
pub const MEDIA_GIVEN_PER_SECOND: f64 = 64.0 * 1024.0 * 1024.0;
/// Files of other servers that are fetched at once.
pub const MEDIA_FETCHES: usize = 8;
/// Servers, beside the one whose it is, that are asked for a file.
pub const MEDIA_SOURCES: usize = 8;
/// What is kept on disk of files that did not come whole: a share of what media may take.
pub const MEDIA_PARTS_SHARE: u64 = 16;
/// Pictures of which thumbnails are made at once: each can take hundreds of MiB.
pub const MEDIA_THUMBNAILS: usize = 1;
/// Aliases of this server.
pub const ALIASES: usize = 10_000;
/// Those of one room.
pub const ALIASES_ROOM: usize = 100;
/// Rooms in the list of public rooms of this server.
pub const PUBLISHED: usize = 5000;
/// Rooms that one space is seen to hold.
pub const SPACE_CHILDREN: usize = 1000;
/// Rooms of which is read in one go what they show.
pub const CARDS: usize = 50;
/// Rooms that a walk through a space looks at.
pub const HIERARCHY_ROOMS: usize = 5000;
/// Requests to other servers for one page of it.
pub const HIERARCHY_ASKED: usize = 50;
/// Servers that are asked in turn what a room shows.
pub const CARD_SERVERS: usize = 3;
/// Rooms of a restricted join rule that are looked at for another server.
pub const CARD_ALLOWED: usize = 10;
/// Previews of web pages that are made at once.
pub const PREVIEWS_AT_ONCE: usize = 8;
/// Previews that are known again.
pub const PREVIEWS: usize = 256;
/// Previews that are made for one user in a burst.
pub const PREVIEWS_BURST: f64 = 20.0;
/// The same each second in the long run.
pub const PREVIEWS_PER_SECOND: f64 = 0.5;
/// How long somebody may wait for media that are not here yet: less than http waits for an actor.
pub const MEDIA_WAIT: Duration = Duration::from_secs(50);
/// What media leave free on the disk: the database needs room to go on.
pub const MEDIA_DISK_LEFT: u64 = 512 * 1024 * 1024;
/// How much of what media may take those of one other server may.
pub const MEDIA_SERVER_SHARE: u64 = 4;
/// How long a part of the node may leave unanswered whether it gets on, before the node ends.
pub const SILENT: Duration = Duration::from_secs(60);
/// Longest stop after Ctrl-C or SIGTERM.
pub const STOP_WAIT: Duration = Duration::from_secs(5);
