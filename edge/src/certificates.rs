//! Certificates of sites, picked by the name that a client asks for (SNI), and replaced while the edge runs: what providers gave to
//! the control plane, then pairs of PEM files in a folder. For all other names there is the installation's certificate.
//!
//! A pair is `NAME.crt` and `NAME.key`, or `tls.crt` and `tls.key` in a folder of its own, as Kubernetes mounts a secret. The names
//! that it is for are those in the certificate, not those of the files. What is broken is reported, and the one before stays.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::{info, warn};
use umbel_service::{
    config::{ConfigError, Mistake},
    installation::Installation,
    tls::{self, LiveCertificate, TlsError},
};

mod sites;

use sites::OfSites;

/// A chain and a key have a few kilobytes.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Pairs in a folder; those beyond are not read.
const MOST_PAIRS: usize = 10_000;

/// Why a pair is not used.
#[derive(Debug, thiserror::Error)]
enum BrokenPair {
    /// A file cannot be read.
    #[error("{} cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    /// Not PEM, or the two do not fit.
    #[error("certificate and key are not usable together")]
    Unusable(#[from] TlsError),
    /// No DNS name to be found by.
    #[error("the certificate names no host")]
    Nameless,
}

/// What a certificate is, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Of the files, without ending; `site NAME` if its provider brought it.
    pub pair: String,
    /// Hosts, some with `*.` in front.
    pub names: Vec<String>,
    /// Seconds since the epoch.
    pub not_after: i64,
}

/// Reads a folder to say what is in it, in the order of names.
///
/// # Errors
/// It cannot be read, or there are pairs in it that cannot be used: each of them.
pub fn look(folder: &Path) -> Result<Vec<Described>, ConfigError> {
    let found = Folder::opened(folder.to_owned())?.pairs.into_values();
    Ok(found.filter_map(|kept| Some(kept.pair?.described)).collect())
}

/// What the public port shows.
#[derive(Debug)]
pub(crate) struct Certificates {
    others: Arc<LiveCertificate>,
    of_sites: OfSites,
    by_name: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
    folder: Mutex<Option<Folder>>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    pairs: BTreeMap<String, Kept>,
}

#[derive(Debug)]
struct Kept {
    stamp: Stamp,
    /// The last that was good.
    pair: Option<Pair>,
}

#[derive(Debug)]
struct Pair {
    key: Arc<CertifiedKey>,
    described: Described,
}

/// Two files as they were when they were read.
type Stamp = [Option<(SystemTime, u64)>; 2];

#[derive(Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificates {
    /// `others` for names that the folder does not have; the folder is read at [`Certificates::read`].
    pub(crate) fn new(folder: Option<PathBuf>, others: Arc<LiveCertificate>) -> Self {
        let folder = folder.map(|path| Folder { path, pairs: BTreeMap::new() });
        Self { others, of_sites: OfSites::default(), by_name: ArcSwap::default(), folder: Mutex::new(folder) }
    }

    /// From now on those of these sites.
    pub(crate) fn follow(&self, installation: &Installation) {
        self.of_sites.replace(installation);
    }

    /// From the next [`Certificates::read`] on this folder, or none. Blocks.
    ///
    /// # Errors
    /// As [`look`], if it is another one; then it stays the one that it was.
    pub(crate) fn move_to(&self, folder: Option<PathBuf>) -> Result<(), ConfigError> {
        let mut current = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().map(|current| &current.path) != folder.as_ref() {
            *current = folder.map(Folder::opened).transpose()?;
        }
        Ok(())
    }

    /// Reads what has changed since the last time, and says what there is now. Blocks.
    pub(crate) fn read(&self) -> Vec<Described> {
        let mut folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = folder.as_mut() {
            folder.read();
        }
        let pairs = || folder.iter().flat_map(|folder| folder.pairs.values()).filter_map(|kept| kept.pair.as_ref());
        self.by_name.store(Arc::new(by_name(pairs())));
        pairs().map(|pair| pair.described.clone()).chain(self.of_sites.described()).collect()
    }

    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        if let Some(own) = self.of_sites.find(&name) {
            return Some(own);
        }
        let by_name = self.by_name.load();
        let wildcard = || by_name.get(&format!("*.{}", name.split_once('.')?.1));
        by_name.get(&name).or_else(wildcard).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let own = hello.server_name().and_then(|name| self.find(name));
        own.or_else(|| self.others.resolve(hello))
    }
}

/// Of two for one name, the one that is good for longer.
fn by_name<'a>(pairs: impl Iterator<Item = &'a Pair>) -> HashMap<String, Arc<CertifiedKey>> {
    let mut best: HashMap<&str, &Pair> = HashMap::new();
    for pair in pairs {
        for name in &pair.described.names {
            let there = best.entry(name).or_insert(pair);
            if there.described.not_after < pair.described.not_after {
                *there = pair;
            }
        }
    }
    best.into_iter().map(|(name, pair)| (name.to_owned(), pair.key.clone())).collect()
}

impl Folder {
    /// One that is not known yet: with all that is in it, or with all that is wrong.
    fn opened(path: PathBuf) -> Result<Self, ConfigError> {
        let place = path.display().to_string();
        let mistake = |text| Mistake { place: place.clone(), text };
        let present = pairs(&path).map_err(|error| ConfigError(vec![mistake(format!("cannot be read: {error}"))]))?;
        let (mut pairs, mut mistakes) = (BTreeMap::new(), Vec::new());
        for (name, files) in present {
            let stamp = files.stamp();
            match files.load(&name) {
                Ok(pair) => drop(pairs.insert(name, Kept { stamp, pair: Some(pair) })),
                Err(why) => mistakes.push(mistake(format!("`{name}`: {why}"))),
            }
        }
        if mistakes.is_empty() { Ok(Self { path, pairs }) } else { Err(ConfigError(mistakes)) }
    }

    fn read(&mut self) {
        let present = match pairs(&self.path) {
            Ok(present) => present,
            Err(error) => return warn!(folder = %self.path.display(), %error, "the certificates stay as they are"),
        };
        self.pairs.retain(|name, _| present.contains_key(name));
        for (name, files) in present {
            let stamp = files.stamp();
            let kept = self.pairs.entry(name.clone()).or_insert(Kept { stamp: [None; 2], pair: None });
            if kept.stamp == stamp {
                continue;
            }
            kept.stamp = stamp;
            match files.load(&name) {
                Ok(pair) => {
                    info!(pair = name, names = ?pair.described.names, "a certificate is in use");
                    kept.pair = Some(pair);
                }
                Err(why) => warn!(pair = name, kept = kept.pair.is_some(), %why, "a certificate is not used"),
            }
        }
    }
}

/// By name. What begins with a dot is how Kubernetes exchanges files.
fn pairs(folder: &Path) -> io::Result<BTreeMap<String, Files>> {
    let mut pairs = BTreeMap::new();
    for entry in fs::read_dir(folder)?.take(4 * MOST_PAIRS) {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else {
            continue;
        };
        if let Some(name) = name.strip_suffix(".crt") {
            pairs.insert(name.to_owned(), Files { key: path.with_extension("key"), certificate: path.clone() });
        } else if path.join("tls.crt").exists() {
            let files = Files { certificate: path.join("tls.crt"), key: path.join("tls.key") };
            pairs.insert(name.to_owned(), files);
        }
    }
    while pairs.len() > MOST_PAIRS {
        pairs.pop_last();
    }
    Ok(pairs)
}

impl Files {
    fn stamp(&self) -> Stamp {
        let stamp = |path: &PathBuf| fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len()))).ok();
        [stamp(&self.certificate), stamp(&self.key)]
    }

    fn load(&self, name: &str) -> Result<Pair, BrokenPair> {
        let key = tls::certified(&text(&self.certificate)?, &text(&self.key)?)?;
        Ok(Pair { described: Described::of(name, &key)?, key: Arc::new(key) })
    }
}

impl Described {
    fn of(pair: &str, key: &CertifiedKey) -> Result<Self, BrokenPair> {
        let leaf = key.cert.first().ok_or(BrokenPair::Nameless)?;
        let (names, not_after) = tls::names_and_end(leaf).ok_or(BrokenPair::Nameless)?;
        if names.is_empty() {
            return Err(BrokenPair::Nameless);
        }
        Ok(Self { pair: pair.to_owned(), names, not_after })
    }

    fn is_for(&self, host: &str) -> bool {
        self.names.iter().any(|name| tls::covers(name, host))
    }
}

fn text(path: &Path) -> Result<String, BrokenPair> {
    let unreadable = |error| BrokenPair::Unreadable(path.to_owned(), error);
    if fs::metadata(path).map_err(unreadable)?.len() > LARGEST_FILE {
        return Err(unreadable(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    fs::read_to_string(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        (CertificateParams::new(names).unwrap().self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn write(folder: &Path, name: &str, (certificate, key): &(String, String)) {
        fs::write(folder.join(format!("{name}.crt")), certificate).unwrap();
        fs::write(folder.join(format!("{name}.key")), key).unwrap();
    }

    fn shown(certificates: &Certificates, name: &str) -> Option<String> {
        let found = certificates.find(name)?;
        Some(tls::names_and_end(found.cert.first().unwrap()).unwrap().0.join(" "))
    }

    fn check(certificates: &Certificates, expected: &[(&str, Option<&str>)]) {
        for (name, names) in expected {
            assert_eq!(shown(certificates, name).as_deref(), *names, "{name}");
        }
    }

    #[test]
    fn names_and_files() {
        tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let fallback = pair(&["edge.test"]);
        let others = Arc::new(LiveCertificate::from_pem(&fallback.0, &fallback.1).unwrap());
        let certificates = Certificates::new(Some(folder.path().into()), others);
        write(folder.path(), "one", &pair(&["a.test", "*.a.test"]));
        write(folder.path(), "two", &pair(&["x.a.test"]));
        fs::create_dir(folder.path().join("secret")).unwrap();
        write(&folder.path().join("secret"), "tls", &pair(&["k.test"]));
        certificates.read();
        check(
            &certificates,
            &[
                ("a.test", Some("a.test *.a.test")),
                ("Y.A.test", Some("a.test *.a.test")),
                ("x.a.test", Some("x.a.test")),
                ("z.x.a.test", None),
                ("k.test", Some("k.test")),
                ("other.test", None),
            ],
        );

        // Replaced, broken, and gone.
        write(folder.path(), "one", &pair(&["a.test", "new.test"]));
        fs::write(folder.path().join("two.key"), pair(&["x.a.test"]).1 + "\n").unwrap();
        fs::remove_file(folder.path().join("secret/tls.crt")).unwrap();
        let described = certificates.read();
        assert_eq!(described.len(), 2, "{described:?}");
        check(
            &certificates,
            &[
                ("new.test", Some("a.test new.test")),
                ("y.a.test", None),
                ("x.a.test", Some("x.a.test")),
                ("k.test", None),
            ],
        );
        let mistakes = look(folder.path()).unwrap_err();
        assert!(mistakes.0.len() == 1 && mistakes.0[0].text.starts_with("`two`"), "{mistakes:?}");

        // Another folder has to be right as a whole.
        let other = tempfile::tempdir().unwrap();
        write(other.path(), "good", &pair(&["other.test"]));
        fs::write(other.path().join("bad.crt"), "x").unwrap();
        for wrong in [folder.path().join("nothing-here"), other.path().to_owned()] {
            assert_eq!(certificates.move_to(Some(wrong)).unwrap_err().0.len(), 1);
            certificates.read();
            check(&certificates, &[("new.test", Some("a.test new.test")), ("other.test", None)]);
        }
        fs::remove_file(other.path().join("bad.crt")).unwrap();
        certificates.move_to(Some(other.path().to_owned())).unwrap();
        assert_eq!(certificates.read(), look(other.path()).unwrap());
        check(&certificates, &[("new.test", None), ("other.test", Some("other.test"))]);
        certificates.move_to(None).unwrap();
        assert_eq!(certificates.read(), []);
        check(&certificates, &[("a.test", None)]);
    }
}
