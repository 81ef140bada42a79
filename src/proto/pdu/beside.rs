//! Events whose server_keys stand beside them: what is left out is put back, and nothing else is.

use super::{tests::*, *};
use crate::proto::{
    certificates::tests::{issued_by, node_keys},
    delegation::tests::of_generation,
    server_keys::tests::secret_keys,
    signer::SecretKeys,
};

/// What came beside, and what is known already: the keys of whom, of whom.
struct Case {
    what: &'static str,
    raw: Box<RawValue>,
    beside: SecretKeys,
    known: Vec<SecretKeys>,
    expected: Result<SecretKeys, fn(&ProtoError) -> bool>,
}

fn unknown(error: &ProtoError) -> bool {
    matches!(error, ProtoError::MissingServerKeys(_))
}

fn forged(error: &ProtoError) -> bool {
    matches!(error, ProtoError::BadSignature(_))
}

fn signer_of(keys: &SecretKeys) -> Signer {
    Signer::new(keys, &[], NOW).unwrap()
}

#[test]
fn attack_05_server_keys_beside_events_certify_those_that_they_signed_and_no_others() {
    let (one, two, eve) = (node_keys(1, 1), node_keys(1, 2), secret_keys(3));
    let sent = message(&signer_of(&one), NOW);
    let bare = RawValue::from_string(sent.json.to_string()).unwrap();
    let whole = sent.to_wire(signer_of(&one).server_keys_text());
    let wrong = sent.to_wire(signer_of(&two).server_keys_text());
    // Signed by somebody else in her name, under the id of a key of hers.
    let ids = [&two, &one].map(|keys| signer_of(keys).verify_key_id().to_owned());
    let theirs = message(&signer_of(&two), NOW).json.replace(&ids[0], &ids[1]);
    let theirs = RawValue::from_string(theirs).unwrap();
    let cases = [
        ("its own", &bare, &one, vec![], Ok(&one)),
        ("its own, and others are known", &bare, &one, vec![&two], Ok(&one)),
        ("those of a server that did not sign", &bare, &eve, vec![], Err(unknown as fn(&_) -> _)),
        ("the same, and its own are known", &bare, &eve, vec![&one], Ok(&one)),
        ("those of another node", &bare, &two, vec![], Err(unknown)),
        ("the same, and others are known", &bare, &two, vec![&two], Err(unknown)),
        ("the same, and its own are known", &bare, &two, vec![&one], Ok(&one)),
        ("others, while it has its own", &whole, &two, vec![], Ok(&one)),
        ("its own, while it has others", &wrong, &one, vec![], Err(forged)),
        ("forged under the id of a key that stands beside", &theirs, &one, vec![], Err(forged)),
    ];
    for (what, raw, beside, known, expected) in cases {
        let case = Case {
            what,
            raw: raw.clone(),
            beside: beside.clone(),
            known: known.into_iter().cloned().collect(),
            expected: expected.cloned(),
        };
        check(&case);
    }
}

fn check(case: &Case) {
    let server = case.beside.server_name();
    let beside = Arc::new(issued_by(&case.beside, &[], NOW));
    let mut known: HashMap<OwnedServerName, Certificates> = HashMap::new();
    for keys in &case.known {
        let certificates = known.entry(keys.server_name()).or_default();
        certificates.add(&Arc::new(issued_by(keys, &[], NOW)));
    }
    let read = read(&case.raw, &room(), &rules()).unwrap().beside(&beside);
    let received = read.verify(&rules(), &known, NOW);
    match (&case.expected, received) {
        (Ok(keys), Ok(received)) => {
            assert_eq!(received.server_keys.text(), issued_by(keys, &[], NOW).text());
            assert!(!received.spoilt, "{}", case.what);
        }
        (Err(is), Err(error)) => assert!(is(&error), "{}: {error}", case.what),
        (_, received) => panic!("{}, beside of {server}: {received:?}", case.what),
    }
}

#[test]
fn attack_08_server_keys_beside_events_of_a_generation_that_is_over_certify_nothing_new() {
    let one = node_keys(1, 1);
    let sent = message(&signer_of(&one), NOW);
    let raw = RawValue::from_string(sent.json.to_string()).unwrap();
    let old = Arc::new(issued_by(&one, &[], NOW));
    for (began, good) in [(NOW / 1000 - 60, false), (NOW / 1000 + 60, true)] {
        let raised = of_generation(&node_keys(1, 2), began, NOW);
        let known = Certificates::new(&one.server_name(), [raised]);
        let known = HashMap::from([(one.server_name(), known)]);
        let read = read(&raw, &room(), &rules()).unwrap().beside(&old);
        let received = read.verify(&rules(), &known, NOW);
        assert_eq!(received.is_ok(), good, "{received:?}");
    }
}
