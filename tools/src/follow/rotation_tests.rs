//! Random rotations: each line is read once.

use std::fs;

use super::logs_tests::{Lab, line};

/// Rotates, copies, replaces, compresses, cuts and restarts at random. Each line is read once.
#[test]
fn each_line_is_read_once_after_any_rotation() {
    for seed in 0..300_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |limit: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 8) % limit
        };
        let mut lab = Lab::new("random");
        let (mut written, mut read) = (Vec::new(), Vec::new());
        let (mut number, mut rotation, mut rest) = (0, 0, String::new());
        for _ in 0..60 {
            match below(11) {
                0..3 => {
                    let mut text = std::mem::take(&mut rest);
                    for _ in 0..below(4) {
                        number += 1;
                        written.push(line(number).trim_end().to_owned());
                        text += &line(number);
                    }
                    let half = if below(3) == 0 { text.len() / 2 } else { text.len() };
                    lab.append("cowrie.json", &text[..half]);
                    rest = text[half..].to_owned();
                }
                3..5 => read.extend(lab.read()),
                5 => lab.restart(),
                9.. if lab.path("cowrie.json").exists() => {
                    // A copy takes the place of the log.
                    lab.copy("cowrie.json", "copy");
                    lab.rename("copy", "cowrie.json");
                }
                kind => {
                    lab.append("cowrie.json", std::mem::take(&mut rest));
                    if fs::metadata(lab.path("cowrie.json")).unwrap().len() == 0 {
                        continue;
                    }
                    rotation += 1;
                    let name = format!("cowrie.json.{rotation}");
                    if kind == 6 {
                        lab.rename("cowrie.json", &name);
                    } else {
                        lab.copy("cowrie.json", &name);
                        if kind == 8 {
                            read.extend(lab.read());
                        }
                        lab.truncate("cowrie.json");
                    }
                    if below(2) == 0 {
                        lab.gzip(&name);
                    }
                }
            }
        }
        lab.append("cowrie.json", rest);
        read.extend(lab.read());
        read.sort();
        written.sort();
        assert_eq!(read, written, "seed {seed}");
    }
}
