//! Follows the files of an authority that something else maintains (§1I.4, §9 row 26).
//!
//! Looks at their contents every few seconds, because files are replaced and linked in too many ways to rely on
//! the kernel's reports. New anchors and leaves of the new issuer reach our own stores too. A bad set of files
//! changes nothing but the log. Never writes.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use weft_identity::authority::{Authority, AuthorityError, IssuerFiles};
use weft_identity::store::Store;

/// Time between two looks. A guess: issuers live for days, and people watch rotations.
const EVERY: Duration = Duration::from_secs(10);

/// What the files say; `None` where one cannot be read.
type Contents = [Option<Vec<u8>>; 3];

/// Whether there is something to compare with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    First,
    Later,
}

/// Reloads the authority when its files change, for ever.
pub(crate) async fn follow(files: IssuerFiles, authority: Arc<Authority>, own: Vec<Store>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Nothing is known at first, so that a change since the authority was opened is not missed.
    let mut known = None;
    loop {
        ticks.tick().await;
        let (files, authority, own) = (files.clone(), authority.clone(), own.clone());
        let before: Option<Contents> = known.take();
        let looked = tokio::task::spawn_blocking(move || {
            let now = [&files.certificates, &files.key, &files.anchors].map(|path| std::fs::read(path).ok());
            match before {
                Some(before) if before == now => {}
                before => reload(&authority, &own, if before.is_some() { Look::Later } else { Look::First }),
            }
            now
        });
        known = looked.await.ok();
    }
}

/// Reads the files again and renews what we ourselves show to proxies.
fn reload(authority: &Authority, own: &[Store], look: Look) {
    if let Err(error) = authority.reload() {
        tracing::error!(%error, "the issuer's files have changed but cannot be used; the issuer before stays");
        return;
    }
    if look == Look::Later {
        tracing::info!("the issuer's files have changed and are in use");
    }
    for store in own {
        store.replace_anchors((*authority.anchors()).clone());
        if let Err(error) = renew(authority, store) {
            tracing::warn!(%error, id = %store.local_id(), "our own certificate was not renewed; it will be later");
        }
    }
}

fn renew(authority: &Authority, store: &Store) -> Result<(), AuthorityError> {
    let (issued, key) = authority.issue_own(store.local_id())?;
    let chain = [vec![issued.leaf], issued.intermediates].concat();
    if let Err(error) = store.install(chain, key) {
        tracing::warn!(%error, id = %store.local_id(), "our own new certificate does not fit the anchors");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use weft_identity::authority::Lifetimes;
    use weft_identity::store::LocalName;

    /// Makes an authority and puts its files where `files` says.
    fn install(directory: &Path, name: &str, files: &IssuerFiles) {
        let home = directory.join(name);
        Authority::open_now(&home, name, Lifetimes::default()).unwrap();
        let text = std::fs::read_to_string(home.join("authority.pem")).unwrap();
        let certificate = text.find("-----BEGIN CERTIFICATE-----").unwrap();
        std::fs::write(&files.certificates, &text[certificate..]).unwrap();
        std::fs::write(&files.anchors, &text[certificate..]).unwrap();
        // Copied, so that it keeps its mode.
        std::fs::copy(home.join("authority.pem"), &files.key).unwrap();
    }

    #[test]
    fn a_new_issuer_is_used_and_a_bad_one_changes_nothing() {
        let directory = std::env::temp_dir().join(format!("weft-issuer-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = |name: &str| directory.join(name);
        let files =
            IssuerFiles { certificates: file("crt.pem"), key: file("key.pem"), anchors: file("ca.pem") };
        install(&directory, "first.mesh", &files);
        let authority = Authority::load_now(files.clone(), Lifetimes::default()).unwrap();
        let name = "control.mesh".parse::<weft_model::name::DnsName>().unwrap();
        let local = LocalName { id: weft_model::identity::Id::Dns(name.clone()), server_name: name };
        let store = Store::new(local, (*authority.anchors()).clone());
        reload(&authority, std::slice::from_ref(&store), Look::First);
        assert!(store.is_ready());
        let first = store.anchors().to_pem().to_owned();

        std::fs::write(&files.certificates, "nothing").unwrap();
        reload(&authority, std::slice::from_ref(&store), Look::Later);
        assert_eq!(authority.anchors().to_pem(), first);

        install(&directory, "second.mesh", &files);
        reload(&authority, std::slice::from_ref(&store), Look::Later);
        assert_ne!(authority.anchors().to_pem(), first);
        assert_eq!(store.anchors().to_pem(), authority.anchors().to_pem(), "proxies see it too");
        assert!(store.holds_valid());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
