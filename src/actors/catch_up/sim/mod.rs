//! Many nodes in one room, simulated from a seed: the rules of the room, of catching up, of gossip and of
//! the Outbox are the real ones; links, disks, clocks and chance are not. After all links are whole again
//! everybody has everything, sees the same room, and owes nothing.
//!
//! It stands here, and not in `tests/`, since the rules are nobody's business outside: a test from there
//! would need them to be public.
//!
//! `tests/simulate --seeds N --nodes N --seed S` runs more of them, or one again.

mod check;
mod fetch;
mod figures;
mod messages;
mod network;
mod node;
mod owe;
mod talk;
mod world;

use self::world::{Plan, World};

/// Reads a number that the command gives.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// How many nodes a seed has: mostly few, since that is where most orders are seen.
fn nodes_of(seed: u64) -> usize {
    match seed % 25 {
        0 if seed.is_multiple_of(100) => 50,
        0..=2 => 20,
        rest => 5 + (rest as usize % 8),
    }
}

fn run(seed: u64) {
    let nodes = given("MESSAGEHUB_SIM_NODES").map_or(nodes_of(seed), |it| it as usize);
    let again = format!("tests/simulate --seed {seed} --nodes {nodes}");
    let played = std::panic::catch_unwind(|| {
        let mut world = World::new(Plan::of(seed, nodes));
        world.play();
        world.check();
        world.figures()
    });
    match played {
        Ok(figures) if given("MESSAGEHUB_SIM_SHOW").is_some() => {
            eprintln!("seed {seed}, {nodes} nodes: {figures}");
        }
        Ok(_) => {}
        Err(_) => panic!("seed {seed} failed; it is played again by\n    {again}"),
    }
}

/// Plays the seeds of one of 8 parts, which run side by side.
fn part(number: u64) {
    if let Some(seed) = given("MESSAGEHUB_SIM_SEED") {
        if number == 0 {
            run(seed);
        }
        return;
    }
    let from = given("MESSAGEHUB_SIM_FROM").unwrap_or(0);
    let seeds = given("MESSAGEHUB_SIM_SEEDS").unwrap_or(200);
    (from..from + seeds).filter(|seed| seed % 8 == number).for_each(run);
}

macro_rules! parts {
    ($($name:ident $number:literal),*) => {
        $(#[test]
        fn $name() {
            part($number);
        })*
    };
}

parts!(
    everybody_has_everything_in_the_end_0 0,
    everybody_has_everything_in_the_end_1 1,
    everybody_has_everything_in_the_end_2 2,
    everybody_has_everything_in_the_end_3 3,
    everybody_has_everything_in_the_end_4 4,
    everybody_has_everything_in_the_end_5 5,
    everybody_has_everything_in_the_end_6 6,
    everybody_has_everything_in_the_end_7 7
);

#[test]
fn the_same_seed_plays_the_same() {
    let figures = || {
        let mut world = World::new(Plan::of(11, 6));
        world.play();
        world.figures()
    };
    assert_eq!(figures(), figures());
}
