//! Mutates streams for as many seconds as it is told, with no more than a stable toolchain.

use std::time::{Duration, Instant};

use talaria_fuzz::{Kind, check};

const RESPONSES: &str = concat!(
    "Aevent: response.created\r\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"status\":\"queued\"}}\r\n\r\n",
    ": ping\n\n",
    "data: {\"type\":\"response.output_item.added\",\"sequence_number\":1,\"output_index\":0,\"item\":{\"type\":\"reasoning\",\"id\":\"rs_1\",\"summary\":[]}}\n\n",
    "data: {\"type\":\"response.reasoning_summary_text.delta\",\"sequence_number\":2,\"output_index\":0,\"summary_index\":0,\"delta\":\"hm\"}\n\n",
    "data: {\"type\":\"response.reasoning_text.delta\",\"sequence_number\":3,\"output_index\":0,\"content_index\":1,\"delta\":\"hm\"}\n\n",
    "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":4,\"output_index\":1,\"content_index\":0,\"item_id\":\"msg_1\",\"delta\":\"He\\ud83d\"}\n\n",
    "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":5,\"output_index\":1,\"content_index\":0,\"item_id\":\"msg_1\",\"delta\":\"\\ude00llo\",\"logprobs\":[{\"token\":\"a\"}]}\n\n",
    "data: {\"type\":\"response.output_text.annotation.added\",\"output_index\":1,\"content_index\":0,\"annotation\":{\"type\":\"url_citation\"}}\n\n",
    "data: {\"type\":\"response.refusal.delta\",\"output_index\":1,\"content_index\":1,\"delta\":\"No\"}\n\n",
    "data: {\"type\":\"response.output_item.done\",\"output_index\":1,\"item\":{\"type\":\"message\",\"id\":\"msg_1\",\"content\":[{\"type\":\"output_text\",\"text\":\"He\",\"annotations\":[{}]},{\"type\":\"odd\"}]}}\n\n",
    "data: {\"type\":\"response.function_call_arguments.delta\",\"output_index\":2,\"delta\":\"{}\"}\n\n",
    "data: {\"type\":\"response.output_item.done\",\"output_index\":2,\"item\":{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\",\"arguments\":\"{}\"}}\n\n",
    "data: {\"type\":\"response.web_search_call.searching\",\"output_index\":3}\n\n",
    "data: {\"type\":\"error\",\"error\":{\"message\":\"It broke.\"}}\n\n",
    "data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"output\":[{\"type\":\"message\",\"content\":\"Hello\"}],\"usage\":{\"input_tokens\":1,\"output_tokens\":2.0}}}\n\ndata: [DONE]\n\n",
);
const CHAT: &str = concat!(
    "Bdata: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"hm\",\"reasoning_details\":[{\"type\":\"reasoning.encrypted\",\"data\":\"x\"}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"H\u{e9}\",\"annotations\":[{\"type\":\"url_citation\",\"url_citation\":{\"url\":\"u\"}}]},\"logprobs\":{\"content\":[{\"token\":\"a\"}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":[{\"type\":\"thinking\",\"thinking\":[{\"text\":\"hm\"}]},{\"type\":\"text\",\"text\":\"x\"}]}}]}\r\n\r\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"refusal\":\"No\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"name\":\"g\"}},{\"index\":1,\"function\":{\"arguments\":\"\\\":1}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"function_call\":{\"name\":\"h\",\"arguments\":\"{}\"}}}]}\n\n",
    "data: {\"error\":{\"message\":\"It broke.\",\"code\":429}}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":-2}}\n\ndata: [DONE]\n\n",
);

/// A xorshift: the same seed does the same.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap_or(0)
    }
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse::<u64>().ok());
    let seconds = arguments.next().unwrap_or(60);
    let mut random = Random(arguments.next().unwrap_or(1).max(1));
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut counts = [0_u64; 2];
    while Instant::now() < until {
        for (count, (kind, seed)) in counts
            .iter_mut()
            .zip([(Kind::Responses, RESPONSES), (Kind::ChatCompletions, CHAT)])
        {
            for _ in 0..100 {
                let bytes = mutated(seed, &mut random);
                let checked = std::panic::catch_unwind(|| check(kind, &bytes));
                if checked.is_err() {
                    let path = format!("crash-{kind:?}-{}", counts[0] + counts[1]);
                    std::fs::write(&path, &bytes).unwrap_or_default();
                    eprintln!("{path}:\n{}", bytes.escape_ascii());
                    std::process::exit(1);
                }
                *count += 1;
            }
        }
    }
    println!(
        "{} streams of responses, {} of chat completions: the laws hold",
        counts[0], counts[1]
    );
}

/// The seed with a few frames and bytes changed.
fn mutated(seed: &str, random: &mut Random) -> Vec<u8> {
    let (first, stream) = seed.split_at(1);
    let mut frames: Vec<&str> = stream.split_inclusive("\n\n").collect();
    for _ in 0..random.below(6) {
        let (at, to) = (random.below(frames.len()), random.below(frames.len()));
        match random.below(4) {
            0 if frames.len() > 1 => drop(frames.remove(at)),
            1 => frames.insert(to, frames[at]),
            2 => frames.swap(at, to),
            _ => {}
        }
    }
    let mut bytes = first.as_bytes().to_vec();
    bytes[0] = u8::try_from(random.below(256)).unwrap_or(0);
    bytes.extend(frames.concat().into_bytes());
    for _ in 0..random.below(8) {
        let at = 1 + random.below(bytes.len() - 1);
        match random.below(7) {
            0 => bytes[at] = u8::try_from(random.below(256)).unwrap_or(0),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, b"\n\r\"{}[]\\:,\0\xf0"[random.below(12)]),
            3 => bytes.truncate(at.max(2)),
            4 => {
                let end = (at + random.below(40)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = 1 + random.below(bytes.len() - 1);
                bytes.splice(to..to, piece);
            }
            5 => {
                let word: &[u8] = [
                    &b"null"[..],
                    b"-1",
                    b"1e999",
                    b"18446744073709551615",
                    b"[]",
                    b"{}",
                    b"\"\"",
                    b"\\ud800",
                ][random.below(8)];
                bytes.splice(at..at, word.iter().copied());
            }
            _ => {
                let end = (at + random.below(60)).min(bytes.len());
                bytes.drain(at..end);
            }
        }
        if bytes.len() < 3 {
            break;
        }
    }
    bytes
}
