//! Whether a server may take part in a room, by lists of many globs.
//!
//! `cargo bench --bench acl`. Every event and every request of a server that is no member is compared with
//! the list, and all members are when it changes.

#![expect(clippy::unwrap_used, reason = "a bench")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use messagehub::proto::acl::Acl;
use ruma::OwnedServerName;
use serde_json::{json, value::to_raw_value};

/// A name as they are here, which no list has.
const SERVER: &str = "bahwqceraeh7ddx5bksrgcytl7bkai36se4nxx3klnk7elksyq57pi74xeg4q";

fn allows(criterion: &mut Criterion) {
    let server = OwnedServerName::try_from(SERVER).unwrap();
    let mut group = criterion.benchmark_group("acl");
    group.measurement_time(Duration::from_secs(3));
    for (what, glob) in [("*.n.example", "*.{}.example"), ("*a*b*n_*", "*a*h*e*x*{}_*")] {
        for count in [1_000, 4_000] {
            let deny: Vec<String> =
                (0..count).map(|n: u32| glob.replace("{}", &n.to_string())).collect();
            let content = to_raw_value(&json!({"allow": ["*"], "deny": deny})).unwrap();
            let acl = Acl::new(&content);
            assert!(acl.allows(&server));
            group.bench_function(format!("{count} globs like {what}"), |bencher| {
                bencher.iter(|| black_box(&acl).allows(black_box(&server)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, allows);
criterion_main!(benches);
