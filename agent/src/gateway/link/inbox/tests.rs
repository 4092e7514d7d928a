use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::*;

/// A packet that takes `size` bytes of a queue.
fn packet(size: usize, last: bool) -> Packet {
    Packet { message: vec![b'x'; size - OVERHEAD].into(), last }
}

fn used(budget: &Budget) -> usize {
    budget.0.used.load(Ordering::Relaxed)
}

#[tokio::test]
async fn what_was_pushed_is_read_in_order_and_the_end_comes_after_it() {
    let (inbox, mut queue) = channel(&Budget::default());
    let other = inbox.clone();
    inbox.push(packet(100, false)).unwrap();
    other.push(packet(101, true)).unwrap();
    drop(inbox);
    assert_eq!(queue.recv().await, Some(packet(100, false)));
    assert_eq!(queue.recv().await, Some(packet(101, true)));
    assert_eq!(queue.recv().now_or_never(), None);
    drop(other);
    assert_eq!(queue.recv().await, None);
}

#[tokio::test]
async fn a_reader_that_waits_is_woken_by_a_packet_and_by_the_end() {
    let (inbox, mut queue) = channel(&Budget::default());
    let read = async { (queue.recv().await, queue.recv().await) };
    let fill = async {
        tokio::task::yield_now().await;
        inbox.push(packet(100, false)).unwrap();
        tokio::task::yield_now().await;
        drop(inbox);
    };
    assert_eq!(tokio::join!(read, fill).0, (Some(packet(100, false)), None));
}

#[test]
fn a_full_queue_takes_nothing_but_the_answer() {
    let budget = Budget::default();
    let (inbox, queue) = channel(&budget);
    inbox.push(packet(QUEUE, false)).unwrap();
    let full = Full { packet: packet(100, false), first: true };
    assert_eq!(inbox.push(packet(100, false)), Err(full));
    // A warning is for the first one only.
    assert!(!inbox.push(packet(100, false)).unwrap_err().first);
    inbox.push(packet(100, true)).unwrap();
    assert_eq!(used(&budget), QUEUE + 100);
    drop(queue);
    assert_eq!(used(&budget), 0);
}

#[test]
fn one_message_that_is_longer_than_the_bound_is_taken_all_the_same() {
    let budget = Budget::default();
    let (inbox, _queue) = channel(&budget);
    inbox.push(packet(2 * QUEUE, false)).unwrap();
    assert!(inbox.push(packet(100, false)).is_err());
}

#[test]
fn the_queues_of_a_conversation_share_one_bound() {
    let budget = Budget::default();
    let queues: Vec<_> = (0..TOTAL / QUEUE).map(|_| channel(&budget)).collect();
    for (inbox, _) in &queues {
        inbox.push(packet(QUEUE, false)).unwrap();
    }
    let (inbox, mut queue) = channel(&budget);
    assert!(inbox.push(packet(100, false)).is_err());
    inbox.push(packet(100, true)).unwrap();
    assert_eq!(queue.recv().now_or_never(), Some(Some(packet(100, true))));
    drop(queues);
    inbox.push(packet(100, false)).unwrap();
    assert_eq!(used(&budget), 100);
}

#[test]
fn what_nobody_reads_is_handed_back_without_ado() {
    let (inbox, queue) = channel(&Budget::default());
    drop(queue);
    assert!(inbox.is_closed());
    let full = Full { packet: packet(100, true), first: false };
    assert_eq!(inbox.push(packet(100, true)), Err(full));
    assert_eq!(inbox.send(packet(100, false)).now_or_never(), Some(()));
}

#[tokio::test]
async fn who_may_wait_loses_nothing_and_is_woken_by_the_reader() {
    let (inbox, mut queue) = channel(&Budget::default());
    let fill = async {
        for size in 0..20 {
            inbox.send(packet(QUEUE / 2 + size, false)).await;
        }
        drop(inbox);
    };
    let read = async {
        let mut sizes = Vec::new();
        while let Some(packet) = queue.recv().await {
            sizes.push(packet.size() - QUEUE / 2);
            tokio::task::yield_now().await;
        }
        sizes
    };
    assert_eq!(tokio::join!(fill, read).1, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_waits_for_room_is_woken_by_another_queue_and_by_the_end_of_its_reader() {
    let budget = Budget::default();
    let queues: Vec<_> = (0..TOTAL / QUEUE).map(|_| channel(&budget)).collect();
    for (inbox, _) in &queues {
        inbox.push(packet(QUEUE, false)).unwrap();
    }
    let (first, mut first_queue) = channel(&budget);
    let (second, second_queue) = channel(&budget);
    // One packet is taken, as it is in memory anyway; the next one waits.
    let fill = async |inbox: &Inbox| {
        inbox.send(packet(100, false)).await;
        inbox.send(packet(100, false)).await;
    };
    let mut waiting = std::pin::pin!(join_all([fill(&first), fill(&second)]));
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(second_queue);
    assert!(waiting.as_mut().now_or_never().is_none());
    drop(queues);
    waiting.await;
    assert!(first_queue.recv().await.is_some());
    assert!(first_queue.recv().await.is_some());
}

#[tokio::test]
async fn who_fills_a_queue_can_end_it_and_take_back_what_was_not_read() {
    let budget = Budget::default();
    let (inbox, mut queue) = channel(&budget);
    inbox.push(packet(100, false)).unwrap();
    inbox.push(packet(101, false)).unwrap();
    assert_eq!(queue.recv().await, Some(packet(100, false)));
    assert_eq!(inbox.close(), [packet(101, false)]);
    assert_eq!((queue.recv().await, used(&budget)), (None, 0));
    assert!(inbox.push(packet(100, true)).is_err());
}
