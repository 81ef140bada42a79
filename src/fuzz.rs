//! What strangers can send, changed at random: how the targets named `fuzz_…` are run.
//!
//! A target is a parser with good inputs. Each round changes one of them, as bytes or as JSON, and
//! gives it to the parser, which may refuse it in any way but a panic. What the parser says leads
//! the search: an input that gets an answer that was never heard before is kept, to be changed
//! further. (Coverage would lead better; it needs more than stable Rust has.)
//!
//! Among the other tests a target runs 200 rounds, the same ones each time.
//! `tests/fuzz SECONDS` runs each for that long, from another seed each time, which it prints. An
//! input that made a parser panic is left in `target/fuzz`; `MESSAGEHUB_FUZZ_INPUT` gives it to
//! the target again.

use std::{
    collections::HashSet,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Map, Value, json};

/// Rounds where no time is given.
const ROUNDS: u64 = 200;
/// Inputs that are kept to be changed further.
const CORPUS: usize = 512;
/// Longest input that is changed further, in bytes.
const LONGEST: usize = 256 * 1024;
/// One input that takes longer than this is a fault, however busy the machine is.
const SLOW: Duration = Duration::from_secs(20);

/// Runs a target that takes bytes. `parse` tells in a few words what it made of them.
pub(crate) fn bytes(name: &str, good: Vec<Vec<u8>>, mut parse: impl FnMut(&[u8]) -> String) {
    run(name, good, change_bytes, |input| parse(input));
}

/// Runs a target that takes text.
pub(crate) fn text(name: &str, good: &[&str], mut parse: impl FnMut(&str) -> String) {
    let good = good.iter().map(|text| text.as_bytes().to_vec()).collect();
    bytes(name, good, |input| parse(&String::from_utf8_lossy(input)));
}

/// Runs a target that takes JSON, which it may sign before it is parsed.
pub(crate) fn json(name: &str, good: Vec<Value>, mut parse: impl FnMut(&Value) -> String) {
    let good = good.iter().map(|value| value.to_string().into_bytes()).collect();
    run(name, good, change_json, |input| {
        let Ok(value) = serde_json::from_slice(input) else { return "no JSON".to_owned() };
        parse(&value)
    });
}

type Change = fn(&mut StdRng, &[Vec<u8>], &[u8]) -> Vec<u8>;

fn run(
    name: &str,
    mut corpus: Vec<Vec<u8>>,
    change: Change,
    mut parse: impl FnMut(&[u8]) -> String,
) {
    if let Some(path) = std::env::var_os("MESSAGEHUB_FUZZ_INPUT") {
        eprintln!("{name}: {}", parse(&fs::read(path).unwrap()));
        return;
    }
    let wait = std::env::var("MESSAGEHUB_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let end = wait.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let seed = match wait {
        Some(_) => std::env::var("MESSAGEHUB_FUZZ_SEED")
            .map_or_else(|_| rand::random(), |text| text.parse().unwrap()),
        None => 0,
    };
    let mut random = StdRng::seed_from_u64(seed);
    let (mut heard, mut rounds) = (HashSet::new(), 0_u64);
    // What is good has to be taken for good, or all that follows says little.
    for input in &corpus {
        heard.insert(kind(&parse(input)));
    }
    while end.map_or(rounds < ROUNDS, |end| Instant::now() < end) {
        rounds += 1;
        let input = {
            let from = corpus.choose(&mut random).unwrap();
            let mut input = change(&mut random, &corpus, from);
            for _ in 0..random.random_range(0..3) {
                input = change(&mut random, &corpus, &input);
            }
            input
        };
        let start = Instant::now();
        let said = catch_unwind(AssertUnwindSafe(|| parse(&input))).unwrap_or_else(|panic| {
            eprintln!("{name}: panic in round {rounds} of seed {seed}: {}", left(name, &input));
            resume_unwind(panic)
        });
        let took = start.elapsed();
        assert!(took < SLOW, "{name}: {took:?} for {}", left(name, &input));
        if input.len() <= LONGEST && corpus.len() < CORPUS && heard.insert(kind(&said)) {
            corpus.push(input);
        }
    }
    eprintln!("{name}: {rounds} inputs from seed {seed}, {} kinds of answer", heard.len());
}

/// Keeps an input that did harm.
fn left(name: &str, input: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let mut hash = DefaultHasher::new();
    input.hash(&mut hash);
    let file: PathBuf = folder.join(format!("{name}-{:016x}", hash.finish()));
    let kept = fs::create_dir_all(&folder).and_then(|()| fs::write(&file, input));
    kept.map_or_else(|error| error.to_string(), |()| file.display().to_string())
}

/// What an answer says, whatever the numbers and names in it.
fn kind(said: &str) -> String {
    said.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

/// Pieces of input that parsers are known to trip over.
fn token(random: &mut StdRng) -> Vec<u8> {
    let deep = random.random_range(1..3000);
    let tokens: [Vec<u8>; 24] = [
        br#""\ud800""#.to_vec(),
        br#""\u0000""#.to_vec(),
        b"1e400".to_vec(),
        b"-0".to_vec(),
        b"0.1".to_vec(),
        b"9007199254740993".to_vec(),
        b"18446744073709551616".to_vec(),
        b"-9223372036854775808".to_vec(),
        b"[".repeat(deep),
        br#"{"a":"#.repeat(deep),
        [b"[".repeat(deep), b"]".repeat(deep)].concat(),
        b"null".to_vec(),
        b"{}".to_vec(),
        br#","type":"m.room.create""#.to_vec(),
        vec![0xff, 0xfe],
        vec![0xef, 0xbb, 0xbf],
        vec![0; deep],
        vec![0xff; 4],
        b"\r\n".to_vec(),
        b"%00".to_vec(),
        b"%".to_vec(),
        b"../..".to_vec(),
        "\u{202e}".as_bytes().to_vec(),
        b"A".repeat(deep * 30),
    ];
    tokens.choose(random).unwrap().clone()
}

fn change_bytes(random: &mut StdRng, corpus: &[Vec<u8>], from: &[u8]) -> Vec<u8> {
    let mut input = from.to_vec();
    let at = random.random_range(0..=input.len());
    let end = (at + random.random_range(0..40)).min(input.len());
    match random.random_range(0..9) {
        0 => input.truncate(at),
        1 => drop(input.drain(at..end)),
        2 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        3 => {
            let token = token(random);
            input.splice(at..at, token);
        }
        4 => {
            let token = token(random);
            input.splice(at..end, token);
        }
        5 => {
            let other = corpus.choose(random).unwrap();
            let start = random.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[start..]);
        }
        6 if serde_json::from_slice::<Value>(&input).is_ok() => {
            return change_json(random, corpus, &input);
        }
        7 if at < input.len() => input[at] = random.random(),
        _ if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        _ => input.push(random.random()),
    }
    input
}

fn change_json(random: &mut StdRng, corpus: &[Vec<u8>], from: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(from) else { return from.to_vec() };
    let count = places(&value);
    let at = random.random_range(0..count);
    let other = corpus.choose(random).and_then(|other| serde_json::from_slice(other).ok());
    change_at(&mut value, &mut { at }, random, other.as_ref());
    value.to_string().into_bytes()
}

/// How many values are in a value, itself included.
fn places(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(fields) => fields.values().map(places).sum(),
        _ => 0,
    }
}

/// Changes the value that is `at` values further.
fn change_at(
    value: &mut Value,
    at: &mut usize,
    random: &mut StdRng,
    other: Option<&Value>,
) -> bool {
    if *at == 0 {
        *value = changed(std::mem::take(value), random, other);
        return true;
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter_mut().any(|item| change_at(item, at, random, other)),
        Value::Object(fields) => {
            fields.values_mut().any(|field| change_at(field, at, random, other))
        }
        _ => false,
    }
}

fn changed(value: Value, random: &mut StdRng, other: Option<&Value>) -> Value {
    match (random.random_range(0..10), value) {
        (0, value) => {
            let deep = *[1, 2, 30, 61, 62, 63, 64, 65, 100].choose(random).unwrap();
            (0..deep).fold(
                value,
                |inner, _| if deep % 2 == 0 { json!([inner]) } else { json!({"a": inner}) },
            )
        }
        (1 | 2, Value::Object(mut fields)) => {
            let name = fields.keys().nth(random.random_range(0..fields.len().max(1))).cloned();
            if let Some(name) = name {
                fields.remove(&name);
            }
            Value::Object(fields)
        }
        (3, Value::Object(mut fields)) => {
            let name = fields.keys().nth(random.random_range(0..fields.len().max(1))).cloned();
            let moved = name.and_then(|name| fields.remove(&name)).unwrap_or(Value::Null);
            fields.insert(odd_text(random), moved);
            Value::Object(fields)
        }
        (1 | 2, Value::Array(mut items)) if !items.is_empty() => {
            items.remove(random.random_range(0..items.len()));
            Value::Array(items)
        }
        (3 | 4, Value::Array(mut items)) if !items.is_empty() => {
            let again = items[random.random_range(0..items.len())].clone();
            let times = *[1, 2, 25, 120].choose(random).unwrap();
            items.extend(std::iter::repeat_n(again, times));
            Value::Array(items)
        }
        (4, Value::Number(number)) => {
            json!(number.as_i64().unwrap_or(0).wrapping_add(random.random_range(-2..3)))
        }
        (5, value) => other.map_or(value, |other| {
            let at = random.random_range(0..places(other));
            nth(other, &mut { at }).cloned().unwrap_or(Value::Null)
        }),
        (6, Value::String(text)) => json!(format!("{text}{}", odd_text(random))),
        (6, Value::Object(mut fields)) => {
            fields.insert(odd_text(random), odd_value(random));
            Value::Object(fields)
        }
        _ => odd_value(random),
    }
}

fn nth<'a>(value: &'a Value, at: &mut usize) -> Option<&'a Value> {
    if *at == 0 {
        return Some(value);
    }
    *at -= 1;
    match value {
        Value::Array(items) => items.iter().find_map(|item| nth(item, at)),
        Value::Object(fields) => fields.values().find_map(|field| nth(field, at)),
        _ => None,
    }
}

fn odd_value(random: &mut StdRng) -> Value {
    let odd = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(9_007_199_254_740_991_i64),
        json!(9_007_199_254_740_992_i64),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5),
        json!([]),
        json!(Map::new()),
        json!([[[]]]),
    ];
    match random.random_range(0..3) {
        0 => json!(odd_text(random)),
        _ => odd.choose(random).unwrap().clone(),
    }
}

fn odd_text(random: &mut StdRng) -> String {
    let odd = [
        "",
        "\0",
        "\n",
        "\u{202e}evil",
        "@",
        "@:",
        "@a:b",
        "@p2p:",
        "!",
        "!a",
        "$",
        "#",
        "m.room.create",
        "m.room.member",
        "m.room.power_levels",
        "server_keys",
        "signatures",
        "unsigned",
        "ed25519:identity",
        "mxc://a/b",
        "6",
        "12",
        "org.matrix.msc",
        "bahwqcerawciaks5d2ox7bqfpmq7zjxfcgu2nrytapoklc3vs6vni6iwqjdna",
    ];
    match random.random_range(0..8) {
        0 => "x".repeat(*[255, 256, 300, 70_000].choose(random).unwrap()),
        1 => char::from_u32(random.random_range(0..0x11_0000)).unwrap_or('\u{fffd}').to_string(),
        _ => (*odd.choose(random).unwrap()).to_owned(),
    }
}

/// Says what became of an input.
pub(crate) fn said<T, E: std::fmt::Display>(result: Result<T, E>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "good".to_owned())
}
