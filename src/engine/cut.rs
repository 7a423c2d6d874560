//! Cutting work into graphs.

#![forbid(unsafe_code)]

use crate::memory::Work;

/// A slice of one work item that goes into one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub item: usize,
    pub start: usize,
    pub len: usize,
}

impl Part {
    pub fn work<'a>(&self, all: &[Work<'a>]) -> Work<'a> {
        let whole = &all[self.item];
        let range = self.start as u32..(self.start + self.len) as u32;
        Work {
            seq: whole.seq,
            tokens: &whole.tokens[self.start..self.start + self.len],
            outputs: whole
                .outputs
                .iter()
                .filter(|o| range.contains(o))
                .map(|o| o - range.start)
                .collect(),
        }
    }
}

/// Cuts work into graphs of at most `n_ubatch` tokens: short items first, so that decoding sequences always ride along.
/// Items of up to `whole` tokens stay in one piece, since the states between their tokens are wanted.
pub(super) fn cut(work: &[Work<'_>], n_ubatch: u32, whole: u32) -> Vec<Vec<Part>> {
    let (n_ubatch, whole) = (n_ubatch as usize, whole.min(n_ubatch) as usize);
    let mut order: Vec<usize> = (0..work.len())
        .filter(|&i| !work[i].tokens.is_empty())
        .collect();
    order.sort_by_key(|&i| work[i].tokens.len());
    let (mut graphs, mut current, mut room) = (Vec::new(), Vec::new(), n_ubatch);
    for item in order {
        let n = work[item].tokens.len();
        if n <= whole && n > room {
            graphs.push(std::mem::take(&mut current));
            room = n_ubatch;
        }
        let mut start = 0;
        while start < n {
            let len = room.min(n - start);
            current.push(Part { item, start, len });
            (start, room) = (start + len, room - len);
            if room == 0 {
                graphs.push(std::mem::take(&mut current));
                room = n_ubatch;
            }
        }
    }
    if !current.is_empty() {
        graphs.push(current);
    }
    graphs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SeqId;

    #[test]
    fn work_is_cut_into_graphs_without_loss() {
        let (a, b) = ([0u32; 10], [0u32; 1]);
        let work = [
            Work {
                seq: SeqId(0),
                tokens: &a,
                outputs: vec![3, 9],
            },
            Work {
                seq: SeqId(1),
                tokens: &b,
                outputs: vec![0],
            },
        ];
        let graphs = cut(&work, 4, 1);
        assert_eq!(
            graphs[0],
            [
                Part {
                    item: 1,
                    start: 0,
                    len: 1
                },
                Part {
                    item: 0,
                    start: 0,
                    len: 3
                }
            ]
        );
        assert_eq!(
            graphs[1],
            [Part {
                item: 0,
                start: 3,
                len: 4
            }]
        );
        assert_eq!(
            graphs[2],
            [Part {
                item: 0,
                start: 7,
                len: 3
            }]
        );
        let outputs: Vec<_> = graphs
            .concat()
            .iter()
            .map(|p| p.work(&work).outputs)
            .collect();
        assert_eq!(outputs, [vec![0], vec![], vec![0], vec![2]]);
    }
    #[test]
    fn tokens_to_verify_stay_together() {
        let tokens = [0u32; 3];
        let work: Vec<Work<'_>> = (0..3)
            .map(|s| Work {
                seq: SeqId(s),
                tokens: &tokens,
                outputs: vec![],
            })
            .collect();
        let lengths = |whole| -> Vec<Vec<usize>> {
            let graphs = cut(&work, 7, whole);
            graphs
                .iter()
                .map(|g| g.iter().map(|p| p.len).collect())
                .collect()
        };
        assert_eq!(lengths(1), [vec![3, 3, 1], vec![2]]);
        assert_eq!(lengths(3), [vec![3, 3], vec![3]]);
    }
}
