//! Where messages end in a prompt: the places where recurrent states are worth keeping.

use crate::chat::{ChatRequest, ChatTemplate};
use crate::tokenizer::Tokenizer;

/// Messages at the start and at the end of a conversation whose ends are looked for. Prompts are shared from the start
/// (system messages) and changed at the end; each place costs one rendering.
const FIRST: usize = 2;
const LAST: usize = 14;

/// Byte positions in `prompt`, rising, where the text of the first messages ends: as far as the conversation cut there
/// gives the same text.
pub fn in_text(template: &ChatTemplate, request: &ChatRequest, prompt: &str) -> Vec<usize> {
    let n = request.messages.len();
    let wanted = (1..=n).filter(|&k| k <= FIRST || k + LAST > n);
    let mut ends: Vec<usize> = wanted
        .filter_map(|k| {
            let cut = ChatRequest {
                messages: request.messages[..k].to_vec(),
                tools: request.tools.clone(),
                add_generation_prompt: false,
                kwargs: request.kwargs.clone(),
            };
            // A template may refuse a conversation that ends here.
            let text = template.render(&cut).ok()?;
            Some(common_bytes(&text, prompt))
        })
        .collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn common_bytes(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count()
}

/// Positions in `tokens`, rising, of these byte positions: the last token that ends at or before each. Positions 0 and
/// `tokens.len()` are left out, since they say nothing.
pub fn in_tokens(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    prompt_len: usize,
    ends: &[usize],
) -> Vec<usize> {
    let mut positions = Vec::with_capacity(ends.len());
    let mut wanted = ends.iter().copied().peekable();
    // A start token that the tokenizer adds has no text in the prompt.
    let total: usize = tokens.iter().map(|&t| tokenizer.token_bytes(t).len()).sum();
    let Some(added) = total.checked_sub(prompt_len) else {
        return positions;
    };
    let mut bytes = 0;
    for (i, &token) in tokens.iter().enumerate() {
        bytes += tokenizer.token_bytes(token).len();
        while let Some(&end) = wanted.peek() {
            if end + added >= bytes {
                break;
            }
            positions.push(i);
            wanted.next();
        }
    }
    positions.extend(wanted.map(|_| tokens.len()));
    positions.retain(|&p| p > 0 && p < tokens.len());
    positions.dedup();
    positions
}
