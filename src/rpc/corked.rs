//! A TCP connection whose small writes go out together: what is written is held back until whoever holds the
//! [`Cork`] sends it, or until there is enough to be worth a system call. HTTP/2 makes one for each answer of 256
//! bytes or more, or each 16 KiB of it, and another for what stands behind it; they cost a small answer more than
//! making it does.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes with which a flush waits for no more. HTTP/2 flushes after each frame of data, which has 16 KiB unless the
/// client allows for more: the first answer of a turn that takes a little more than one goes out as a whole.
const ENOUGH: usize = 31 << 10;
/// Bytes of the buffer that a connection keeps: what is held before it is sent, as a rule, with such a frame more.
const KEPT: usize = 48 << 10;
/// Bytes of one write that has no small answers, for which such a buffer is made at once.
const LARGE_WRITE: usize = 4 << 10;
/// Bytes that are held back at most where answers are small. What is larger is written as it is.
pub(super) const SMALL_ANSWERS: usize = 64 << 10;
const _: () = assert!(ENOUGH < KEPT && KEPT <= SMALL_ANSWERS);

/// The connection, read and written by one task.
#[derive(Debug)]
pub(super) struct Corked(Arc<Mutex<Held>>);

/// Sends what its connection holds back.
#[derive(Clone, Debug)]
pub(super) struct Cork(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    stream: TcpStream,
    /// Bytes that are held back.
    most: usize,
    /// Written to the connection, and from `sent` on not yet to the stream.
    bytes: Vec<u8>,
    sent: usize,
}

impl Corked {
    /// One that holds back so many bytes at most; 0: none.
    pub fn new(stream: TcpStream, most: usize) -> Self {
        Self(Arc::new(Mutex::new(Held { stream, most, bytes: Vec::new(), sent: 0 })))
    }

    pub fn cork(&self) -> Cork {
        Cork(self.0.clone())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        held(&self.0)
    }
}

impl Cork {
    /// Whether something was written that isn't sent.
    pub fn holds_back(&self) -> bool {
        held(&self.0).waiting() > 0
    }

    /// Sends all that was written so far. Pending: the task that asks is woken when it can go on.
    pub fn poll_send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = held(&self.0);
        ready!(held.poll_send(context))?;
        if held.bytes.capacity() > KEPT {
            held.bytes = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

fn held(shared: &Mutex<Held>) -> MutexGuard<'_, Held> {
    shared.lock().expect("nobody panics while reading or writing")
}

impl Held {
    fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.bytes[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.sent = 0;
        self.bytes.clear();
        Poll::Ready(Ok(()))
    }

    /// Makes room for so many bytes more: `false` where they are too many to be held back, and nothing is held.
    fn poll_room(&mut self, context: &mut Context<'_>, more: usize) -> Poll<io::Result<bool>> {
        if self.waiting() > 0 && self.bytes.len() + more > self.most {
            ready!(self.poll_send(context))?;
        }
        let length = self.bytes.len() + more;
        // Not by doubling, which copies what is held each time.
        let kept = KEPT.min(self.most);
        if more >= LARGE_WRITE && length <= kept {
            self.bytes.reserve_exact(kept - self.bytes.len());
        }
        Poll::Ready(Ok(length <= self.most))
    }
}

impl AsyncRead for Corked {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.held().stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Corked {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut held = self.held();
        if ready!(held.poll_room(context, bytes.len()))? {
            held.bytes.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut held.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut held = self.held();
        let length = slices.iter().map(|slice| slice.len()).sum();
        if ready!(held.poll_room(context, length))? {
            for slice in slices {
                held.bytes.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(length));
        }
        Pin::new(&mut held.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done at once where little is held back: the cork's holder sends it.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held();
        if held.waiting() < ENOUGH { Poll::Ready(Ok(())) } else { held.poll_send(context) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held();
        ready!(held.poll_send(context))?;
        Pin::new(&mut held.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(most: usize) -> (Corked, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (accepted, connected) = tokio::join!(listener.accept(), TcpStream::connect(address));
        (Corked::new(accepted.expect("accepted").0, most), connected.expect("connected"))
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        WriteSlices(Vec<usize>),
        Flush,
        Send,
    }

    fn step() -> impl Strategy<Value = Step> {
        let length = || prop_oneof![0..300usize, 0..3 * SMALL_ANSWERS];
        prop_oneof![
            4 => length().prop_map(Step::Write),
            2 => prop::collection::vec(length(), 1..4).prop_map(Step::WriteSlices),
            1 => Just(Step::Flush),
            1 => Just(Step::Send),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Also where the other side reads so slowly that the system takes no more for a while.
        #[test]
        fn what_is_written_arrives_in_its_order(
            steps in prop::collection::vec(step(), 1..40),
            most in prop_oneof![Just(0), Just(SMALL_ANSWERS)],
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let (expected, arrived) = runtime.block_on(async {
                let (mut corked, mut other) = pair(most).await;
                let cork = corked.cork();
                let writing = async {
                    let mut expected = Vec::new();
                    let mut made = |length: usize| {
                        let from = expected.len();
                        expected.extend((from..from + length).map(|at| (at % 251) as u8));
                        expected[from..].to_vec()
                    };
                    for step in steps {
                        match step {
                            Step::Write(length) => corked.write_all(&made(length)).await.expect("written"),
                            Step::WriteSlices(lengths) => {
                                let slices: Vec<Vec<u8>> = lengths.into_iter().map(&mut made).collect();
                                let mut left: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
                                let mut left = left.as_mut_slice();
                                IoSlice::advance_slices(&mut left, 0);
                                while !left.is_empty() {
                                    let written = corked.write_vectored(left).await.expect("written");
                                    IoSlice::advance_slices(&mut left, written);
                                }
                            }
                            Step::Flush => corked.flush().await.expect("flushed"),
                            Step::Send => poll_fn(|context| cork.poll_send(context)).await.expect("sent"),
                        }
                    }
                    corked.shutdown().await.expect("shut down");
                    expected
                };
                let reading = async {
                    let mut arrived = Vec::new();
                    let mut some = vec![0; 5_000];
                    loop {
                        tokio::task::yield_now().await;
                        match other.read(&mut some).await.expect("read") {
                            0 => return arrived,
                            length => arrived.extend_from_slice(&some[..length]),
                        }
                    }
                };
                tokio::join!(writing, reading)
            });
            prop_assert!(expected == arrived, "{} bytes were written, {} have come", expected.len(), arrived.len());
        }
    }

    #[tokio::test]
    async fn little_is_kept_until_it_is_sent_and_much_is_not() {
        let (mut corked, other) = pair(SMALL_ANSWERS).await;
        let (cork, mut other) = (corked.cork(), other.into_std().expect("a socket"));
        // What is sent over loopback can be read at once; nothing of the runtime stands between.
        let mut bytes = vec![0; 2 * ENOUGH];
        let mut arrived = || std::io::Read::read(&mut other, &mut bytes).map_err(|error| error.kind());
        for _ in 0..3 {
            corked.write_all(b"little").await.expect("written");
            corked.flush().await.expect("flushed");
            assert_eq!(arrived(), Err(io::ErrorKind::WouldBlock));
        }
        poll_fn(|context| cork.poll_send(context)).await.expect("sent");
        assert_eq!(arrived(), Ok(18));

        // A frame, and what is left of its answer.
        for part in [&[7; 16 << 10][..], b"the rest"] {
            corked.write_all(part).await.expect("written");
            corked.flush().await.expect("flushed");
            assert_eq!(arrived(), Err(io::ErrorKind::WouldBlock));
        }
        poll_fn(|context| cork.poll_send(context)).await.expect("sent");
        assert_eq!(arrived(), Ok((16 << 10) + 8));

        corked.write_all(&[7; ENOUGH]).await.expect("written");
        assert_eq!(arrived(), Err(io::ErrorKind::WouldBlock));
        corked.flush().await.expect("flushed");
        assert_eq!(arrived(), Ok(ENOUGH));
    }

    #[tokio::test]
    async fn a_connection_keeps_the_buffer_that_its_answers_take_and_none_that_is_larger() {
        let (mut corked, mut other) = pair(SMALL_ANSWERS).await;
        let cork = corked.cork();
        let mut arrived = vec![0; SMALL_ANSWERS];
        let small = vec![vec![7; 300]; 16];
        let answer = vec![vec![7; 200], vec![7; 16 << 10], vec![7; 2_000]];
        for (writes, kept) in [
            (small, 1..=ENOUGH / 2),
            (answer.clone(), KEPT..=KEPT),
            (answer.clone(), KEPT..=KEPT),
            (vec![vec![7; 60 << 10]], 0..=0),
            (answer, KEPT..=KEPT),
        ] {
            let length = writes.iter().map(Vec::len).sum();
            for write in writes {
                corked.write_all(&write).await.expect("written");
            }
            poll_fn(|context| cork.poll_send(context)).await.expect("sent");
            other.read_exact(&mut arrived[..length]).await.expect("it has come");
            let capacity = corked.held().bytes.capacity();
            assert!(kept.contains(&capacity), "{capacity} bytes after {length}");
        }
        // Less than is kept otherwise, where no more may be held.
        let (mut corked, _other) = pair(LARGE_WRITE).await;
        corked.write_all(&[7; LARGE_WRITE]).await.expect("written");
        assert_eq!(corked.held().bytes.capacity(), LARGE_WRITE);
    }

    #[tokio::test]
    async fn nothing_is_kept_where_answers_are_large() {
        let (mut corked, other) = pair(0).await;
        let mut other = other.into_std().expect("a socket");
        corked.write_all(b"little").await.expect("written");
        assert_eq!(std::io::Read::read(&mut other, &mut [0; 9]).expect("it has come"), 6);
    }

    #[tokio::test]
    async fn what_nobody_reads_any_more_is_an_error() {
        let (mut corked, other) = pair(SMALL_ANSWERS).await;
        let cork = corked.cork();
        other.set_zero_linger().expect("it hangs up at once");
        drop(other);
        // How soon the system knows is its own matter.
        let failed = async {
            loop {
                corked.write_all(b"who's there").await?;
                poll_fn(|context| cork.poll_send(context)).await?;
                tokio::task::yield_now().await;
            }
        };
        let failed: io::Result<()> = failed.await;
        failed.expect_err("nobody is");
    }
}
