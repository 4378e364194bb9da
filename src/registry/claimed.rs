//! Blobs that another run sends already: they are waited for as long as something moves there, and no longer,
//! for a claim only saves bytes.
//!
//! No clock is read: who has a claim notes there that bytes move, and who waits counts the looks that find
//! nothing new.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::blob_store::Claim;
use crate::digest::Digest;
use crate::oci::Descriptor;
use crate::registry::Error;
use crate::registry::push::Push;

/// Between looks whether another run is done with a blob.
const PAUSE: Duration = Duration::from_millis(100);
/// Between notes that bytes move.
const NOTES: Duration = Duration::from_secs(3);
/// A blob that is larger is looked for once more before it is sent: between the look before and the claim another
/// run may have ended with it.
const WORTH_A_LOOK: u64 = 1 << 20;

impl Push {
    /// The right to send a blob, for one run at a time; none is needed where another run has just sent it.
    pub(super) async fn claimed(&self, blob: &Descriptor) -> Result<Option<Claim>, Error> {
        let digest = &blob.digest;
        let work = Digest::of(format!("push {} {digest}", self.repository.display()));
        let claim = match self.store.claim(&work) {
            Some(claim) if blob.size <= WORTH_A_LOOK => return Ok(Some(claim)),
            Some(claim) => claim,
            None => self.wait_for(digest, &work).await,
        };
        let is_there = self.repository.has_blob(digest).await?;
        Ok((!is_there).then_some(claim))
    }

    /// Waits until the claim can be had, or nothing moves any more where it is.
    async fn wait_for(&self, blob: &Digest, work: &Digest) -> Claim {
        let short = &blob.hex()[..12];
        let wait = "waiting for another lambimg, which sends it";
        self.progress.step(format!("push {short}: {wait}"));
        let patience = self.options.claim_patience;
        let (mut seen, mut idle) = (self.store.notes(work), Duration::ZERO);
        while idle < patience {
            tokio::time::sleep(PAUSE).await;
            if let Some(claim) = self.store.claim(work) {
                return claim;
            }
            let now = self.store.notes(work);
            idle = if now == seen {
                idle + PAUSE
            } else {
                Duration::ZERO
            };
            seen = now;
        }
        let seconds = patience.as_secs();
        self.progress.step(format!(
            "push {short}: nothing moved there for {seconds} s; sending it too"
        ));
        Claim::default()
    }
}

/// Does `work`, and notes on the claim while `moved` grows.
pub(super) async fn noting<T>(
    claim: &Claim,
    moved: &AtomicU64,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut noted = 0;
    loop {
        if let Ok(done) = tokio::time::timeout(NOTES, &mut work).await {
            return done;
        }
        let now = moved.load(Ordering::Relaxed);
        if now != noted {
            claim.note();
        }
        noted = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob_store::BlobStore;

    #[tokio::test]
    async fn only_what_moves_is_noted() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(directory.path()).unwrap();
        let has_noted = async |name: &str, moved: u64| {
            let work = Digest::of(name);
            let claim = store.claim(&work).unwrap();
            let before = store.notes(&work);
            let lasting = tokio::time::sleep(NOTES + PAUSE);
            noting(&claim, &AtomicU64::new(moved), lasting).await;
            store.notes(&work) != before
        };
        let (moves, stands) = tokio::join!(has_noted("moves", 1), has_noted("stands", 0));
        assert!(moves && !stands);
    }
}
