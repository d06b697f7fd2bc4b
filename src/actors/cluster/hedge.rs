//! Two ways to an answer, side by side.

use std::time::Duration;

use futures::future::{Either, select};

use super::not_ready;
use crate::ports::queries::QueryError;

/// Whether asking somebody else may give more.
pub fn is_passing(e: &QueryError) -> bool {
    matches!(e, QueryError::NotReady { .. } | QueryError::Elsewhere(_))
}

/// The first that knows: `first` has a start of `hedge`, then both go on side by side; what is final from one ends both. Says
/// whether it was the first.
pub async fn either<T>(
    first: impl Future<Output = Result<T, QueryError>>,
    hedge: Duration,
    second: impl Future<Output = Result<T, QueryError>>,
) -> (Result<T, QueryError>, bool) {
    let (mut first, second) = (Box::pin(first), Box::pin(second));
    match tokio::time::timeout(hedge, &mut first).await {
        Ok(Err(e)) if is_passing(&e) => {
            let answer = second.await;
            // The owner's words tell more than that nothing is stored.
            return match answer {
                Err(stored) if is_passing(&stored) => (Err(both(&e, &stored)), false),
                answer => (answer, false),
            };
        }
        Ok(answer) => return (answer, true),
        Err(_) => {}
    }
    match select(first, second).await {
        Either::Left((Err(e), second)) if is_passing(&e) => (second.await, false),
        Either::Left((answer, _)) => (answer, true),
        Either::Right((Err(e), first)) if is_passing(&e) => (first.await, true),
        Either::Right((answer, _)) => (answer, false),
    }
}

fn both(owner: &QueryError, stored: &QueryError) -> QueryError {
    not_ready(format!("{owner}; {stored}"))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn fails() -> Result<u8, QueryError> {
        Err(not_ready("away".into()))
    }

    #[tokio::test]
    async fn an_owner_that_answers_in_time_is_believed_and_the_store_left_alone() {
        let never = async { panic!("nobody asks for it") };
        assert!(matches!(either(ready(Ok(1)), LONG, never).await, (Ok(1), true)));
        let no_shop = || ready(Err::<u8, _>(QueryError::NoShop("a".into())));
        let never = async { panic!("nobody asks for it") };
        assert!(matches!(either(no_shop(), LONG, never).await, (Err(QueryError::NoShop(_)), true)));
    }

    #[tokio::test]
    async fn an_owner_that_is_away_or_silent_is_stood_in_for() {
        assert!(matches!(either(ready(fails()), LONG, ready(Ok(2))).await, (Ok(2), false)));
        assert!(matches!(either(pending(), Duration::ZERO, ready(Ok(2))).await, (Ok(2), false)));
    }

    #[tokio::test]
    async fn an_owner_that_is_late_is_waited_for_if_nothing_is_stored() {
        let late = async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            Ok(1)
        };
        assert!(matches!(either(late, Duration::ZERO, ready(fails())).await, (Ok(1), true)));
    }

    #[tokio::test]
    async fn if_nobody_knows_both_say_why() {
        let (Err(e), false) = either(ready(fails()), LONG, ready(Err::<u8, _>(not_ready("no snapshot".into())))).await else {
            panic!("nobody knows");
        };
        assert_eq!(e.to_string(), "away; no snapshot");
    }
}
