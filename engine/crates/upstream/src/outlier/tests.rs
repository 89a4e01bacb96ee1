#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use super::*;

const BASE: Duration = Duration::from_secs(30);

fn outliers() -> Outliers {
    Outliers::new(OutlierSettings { failures: 5, base: BASE, max_percent: 50 })
}

fn endpoint(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 8080))
}

fn fail(outliers: &Outliers, number: u8, times: u32) {
    for _ in 0..times {
        outliers.failed(endpoint(number));
    }
}

fn counted(outliers: &Outliers) -> u64 {
    outliers.ejections.load(Ordering::Relaxed)
}

fn is_out(outliers: &Outliers, number: u8) -> bool {
    outliers.ejected().is_some_and(|ejected| ejected.contains(endpoint(number)))
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_eject_for_thirty_seconds() {
    let outliers = outliers();
    fail(&outliers, 1, 4);
    outliers.succeeded(endpoint(1));
    fail(&outliers, 1, 4);
    assert!(!is_out(&outliers, 1));
    fail(&outliers, 1, 1);
    assert!(is_out(&outliers, 1) && !is_out(&outliers, 2));
    assert_eq!((counted(&outliers), outliers.active()), (1, 1));
    tokio::time::advance(BASE - Duration::from_millis(1)).await;
    assert!(is_out(&outliers, 1));
    tokio::time::advance(Duration::from_millis(2)).await;
    assert!(!is_out(&outliers, 1));
    assert_eq!((counted(&outliers), outliers.active()), (1, 0));
    outliers.tidy();
    assert!(outliers.ejected().is_none());
}

#[tokio::test(start_paused = true)]
async fn each_time_is_longer_than_the_last_up_to_a_limit() {
    let outliers = outliers();
    for times in [1, 2, 3] {
        fail(&outliers, 1, 5);
        tokio::time::advance(BASE * times - Duration::from_millis(1)).await;
        assert!(is_out(&outliers, 1), "{times}");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!is_out(&outliers, 1), "{times}");
    }
    for _ in 0..20 {
        fail(&outliers, 1, 5);
        tokio::time::advance(LONGEST_EJECTION).await;
        assert!(!is_out(&outliers, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn serving_well_is_forgiveness() {
    let outliers = outliers();
    for times in [1, 2] {
        fail(&outliers, 1, 5);
        tokio::time::advance(BASE * times).await;
    }
    // One base time of the two is made up for: the next ejection is the second again.
    tokio::time::advance(BASE).await;
    outliers.succeeded(endpoint(1));
    fail(&outliers, 1, 5);
    tokio::time::advance(BASE * 2 - Duration::from_millis(1)).await;
    assert!(is_out(&outliers, 1));
    // Both are: nothing is remembered.
    tokio::time::advance(BASE * 3).await;
    outliers.succeeded(endpoint(1));
    assert_eq!(outliers.watched.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_answers_although_it_is_out_comes_back_at_once() {
    let outliers = outliers();
    fail(&outliers, 1, 5);
    fail(&outliers, 1, 5);
    assert_eq!(counted(&outliers), 1, "failures of one that is out already are no further ejection");
    outliers.succeeded(endpoint(1));
    assert!(!is_out(&outliers, 1));
}

#[test]
fn at_most_half_are_left_out_and_never_the_last() {
    let ejected = |max_percent| Ejected { until: HashMap::new(), max_percent };
    assert_eq!([0, 1, 2, 3, 10].map(|all| ejected(50).limit(all)), [0, 0, 1, 1, 5]);
    assert_eq!([0, 1, 2, 3].map(|all| ejected(100).limit(all)), [0, 0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded_and_old_failures_make_room() {
    let outliers = outliers();
    let failing = |port: usize| outliers.failed(SocketAddr::from(([10, 0, 0, 1], u16::try_from(port).unwrap())));
    (0..CAPACITY + 100).for_each(failing);
    assert_eq!(outliers.records.lock().entries().len(), CAPACITY);
    tokio::time::advance(LONGEST_EJECTION * 3).await;
    failing(CAPACITY + 200);
    assert_eq!(outliers.records.lock().entries().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_can_be_switched_off() {
    let outliers = Outliers::new(OutlierSettings { failures: 0, base: BASE, max_percent: 50 });
    fail(&outliers, 1, 100);
    assert!(outliers.ejected().is_none());
}
