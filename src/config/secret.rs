//! How good the secret of a private network is. Pure.
//!
//! Whoever records the beginning of one connection can try secrets at home, as many a second as
//! their machines allow, so a secret has to be long *and* unlike any other. Invariant: only an
//! estimate, and one that errs towards warning.

use std::collections::HashMap;

/// A shorter secret is weak, whatever it is made of.
const LENGTH_MIN: usize = 16;
/// And one of fewer different characters.
const DISTINCT_MIN: usize = 8;
/// And one with fewer bits by our estimate: guessed in a day by whoever rents machines for it.
const BITS_MIN: f64 = 60.0;

/// Returns what is wrong with a secret, if anything is.
pub(super) fn weakness(secret: &str) -> Option<&'static str> {
    let letters: Vec<char> = secret.chars().collect();
    if letters.len() < LENGTH_MIN {
        return Some("short");
    }
    let once = once(&letters);
    let counts = counts(once);
    if counts.len() < DISTINCT_MIN || bits(once, &counts) < BITS_MIN {
        return Some("made of too few different characters, or of one part again and again");
    }
    None
}

/// Returns the shortest beginning that, repeated, is the whole.
fn once(letters: &[char]) -> &[char] {
    let repeats = |length: &usize| {
        letters.iter().skip(*length).zip(letters).all(|(later, earlier)| later == earlier)
    };
    let length = (1..=letters.len()).find(repeats).unwrap_or(letters.len());
    letters.get(..length).unwrap_or(letters)
}

fn counts(letters: &[char]) -> HashMap<char, usize> {
    let mut counts = HashMap::new();
    for letter in letters {
        *counts.entry(*letter).or_default() += 1;
    }
    counts
}

/// Shannon's entropy of the letters, but for those that only continue a row like `abcd` or `4321`.
#[expect(clippy::cast_precision_loss, reason = "a secret has few letters")]
fn bits(letters: &[char], counts: &HashMap<char, usize>) -> f64 {
    let total = letters.len() as f64;
    let share = |count: &usize| *count as f64 / total;
    let each: f64 = counts.values().map(|count| -share(count) * share(count).log2()).sum();
    let step = |pair: &[char]| match pair {
        [one, other] => i64::from(u32::from(*other)) - i64::from(u32::from(*one)),
        _ => 0,
    };
    let steps: Vec<i64> = letters.windows(2).map(step).collect();
    let rows = steps
        .windows(2)
        .filter(|pair| matches!(pair, [one, other] if one == other && one.abs() <= 1));
    each * (total - rows.count() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_strong() {
        for (secret, weak) in [
            ("secret", true),
            ("0123456789abcde", true),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", true),
            ("abababababababababababababab", true),
            ("0123456789012345678901234567890123456789", true),
            ("abcdefghijklmnopqrstuvwxyz", true),
            ("zyxwvutsrqponmlkjihgfedcba", true),
            ("password1password1password1password1", true),
            ("passwordpasswordpasswor", true),
            ("1111222233334444555566667777", true),
            ("qT7vW0hLkz3XyP9sBd2mRg", false),
            ("3f9a1c7e5b2d8046e1f7a3c9b5d20864", false),
            ("correct horse battery staple", false),
            ("jülich-größe-straße-œuvre", false),
        ] {
            assert_eq!(weakness(secret).is_some(), weak, "{secret}");
        }
    }
}
