//! The users of vnodes that were just claimed, page by page. It owns the pages; the claim is that of
//! `vnode`.

use protocol::Stored;
use redis::Value;
use ring::Epoch;
use tokio::time::Instant;

use crate::{
    StoreError,
    call::Call,
    link::Link,
    op::{Done, Op},
    reply::{self, Outcome},
    script,
    vnode::{PAGE, RECORD, epoch, exactly, three_keys},
};

impl Link {
    /// The users of claimed vnodes, page by page, all vnodes at a time.
    pub(crate) async fn list(
        &self,
        ops: &[Op],
        claimed: Vec<(usize, bool)>,
        deadline: Instant,
    ) -> Vec<(usize, Result<Done, StoreError>)> {
        struct Listing {
            at: usize,
            released: bool,
            /// The rank in `seen` where the next page begins.
            rank: usize,
            users: Vec<(Box<str>, Stored)>,
        }
        let start = |(at, released)| Listing {
            at,
            released,
            rank: 0,
            users: Vec::new(),
        };
        let mut listings: Vec<Listing> = claimed.into_iter().map(start).collect();
        let mut results = Vec::new();
        while !listings.is_empty() {
            let call = |listing: &Listing| page_call(self, &ops[listing.at], listing.rank);
            let calls: Vec<Call> = listings.iter().map(call).collect();
            let answers = self.perform_until(deadline, &calls).await;
            let mut unfinished = Vec::new();
            for (mut listing, answer) in listings.into_iter().zip(answers) {
                let op = &ops[listing.at];
                let page = answer.and_then(|answer| self.page(op, answer, &mut listing.users));
                match page {
                    Ok(Page::More) => {
                        listing.rank += PAGE;
                        unfinished.push(listing);
                    }
                    Ok(Page::Last) => {
                        let Listing {
                            at,
                            released,
                            users,
                            ..
                        } = listing;
                        results.push((at, Ok(Done::Claimed { released, users })));
                    }
                    Ok(Page::Fenced(epoch)) => results.push((listing.at, Ok(Done::Fenced(epoch)))),
                    Err(error) => results.push((listing.at, Err(error))),
                }
            }
            listings = unfinished;
        }
        results
    }

    fn page(
        &self,
        op: &Op,
        answer: Value,
        users: &mut Vec<(Box<str>, Stored)>,
    ) -> Result<Page, StoreError> {
        let vnode = op.vnode();
        let mut outcome = Outcome::of(answer)?;
        match outcome.word.as_str() {
            "fenced" => {
                let there = epoch(outcome.next())?;
                if matches!(op, Op::Claim { epoch, .. } if *epoch < there) {
                    return Ok(Page::Fenced(there));
                }
                let text = format!("the epoch of vnode {vnode} fell to {there} while it was read");
                return Err(StoreError::Unexpected(text));
            }
            "page" => {}
            _ => return Err(outcome.unknown()),
        }
        let more: u8 = reply::number(outcome.next())?;
        let names = reply::list(outcome.next())?;
        let values = exactly(reply::list(outcome.next())?, names.len())?;
        for (name, value) in names.into_iter().zip(values) {
            let user = match reply::text(name) {
                Ok(user) if protocol::check_user(&user).is_ok() => user,
                _ => {
                    let reason = "is not the name of a user".to_owned();
                    self.report(vnode, "", reason);
                    continue;
                }
            };
            if let Some(stored) = self.record(vnode, &user, value)? {
                users.push((user.into(), stored));
            }
        }
        Ok(if more == 1 { Page::More } else { Page::Last })
    }
}

enum Page {
    More,
    Last,
    Fenced(Epoch),
}

fn page_call(link: &Link, op: &Op, rank: usize) -> Call {
    let Op::Claim {
        vnode,
        epoch,
        since_ms,
        ..
    } = op
    else {
        unreachable!("only claimed vnodes are listed")
    };
    Call::script(&script::LIST, three_keys(link, *vnode))
        .number(epoch)
        .number(since_ms)
        .number(rank)
        .number(PAGE)
        .expecting(PAGE * RECORD / 4)
}
