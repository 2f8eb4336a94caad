//! Who is connected: all together, and from each client's address, against what is allowed.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

/// Open connections by address. An IPv6 client has a whole /64 to come from, and counts as one.
#[derive(Debug, Default)]
pub(super) struct Population {
    residents: Mutex<Residents>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Residents {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One that is connected, until it is dropped.
#[derive(Debug)]
pub(super) struct Resident {
    population: Arc<Population>,
    address: Option<IpAddr>,
}

impl Population {
    /// Returns when there is room for one more under `limit`, and takes it.
    pub(super) async fn enter(self: &Arc<Self>, limit: impl Fn() -> usize) -> Resident {
        loop {
            let left = self.left.notified();
            if let Some(resident) = self.try_enter(limit()) {
                return resident;
            }
            left.await;
        }
    }

    fn try_enter(self: &Arc<Self>, limit: usize) -> Option<Resident> {
        let mut residents = self.lock();
        if residents.all >= limit {
            return None;
        }
        residents.all += 1;
        Some(Resident { population: self.clone(), address: None })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Residents> {
        self.residents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resident {
    /// Says from where it is. False if there are `limit` of the same already.
    pub(super) fn comes_from(&mut self, address: IpAddr, limit: Option<usize>) -> bool {
        let Some(limit) = limit else { return true };
        let address = household(address);
        let mut residents = self.population.lock();
        let there = residents.by_address.entry(address).or_default();
        if *there >= limit {
            return false;
        }
        *there += 1;
        drop(residents);
        self.address = Some(address);
        true
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let mut residents = self.population.lock();
        residents.all -= 1;
        if let Some(address) = self.address
            && let Some(there) = residents.by_address.get_mut(&address)
        {
            *there -= 1;
            if *there == 0 {
                residents.by_address.remove(&address);
            }
        }
        drop(residents);
        self.population.left.notify_one();
    }
}

fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (!0 << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_count_together() {
        let population = Arc::new(Population::default());
        let mut here = Vec::new();
        for (address, expected) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.7", false),
            ("192.0.2.8", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::1", true),
        ] {
            let mut resident = population.try_enter(100).unwrap();
            assert_eq!(resident.comes_from(address.parse().unwrap(), Some(2)), expected, "{address}");
            here.push(resident);
        }
        drop(here);
        let residents = population.lock();
        assert_eq!((residents.all, residents.by_address.len()), (0, 0));
    }

    #[tokio::test]
    async fn one_leaves_and_one_comes() {
        let population = Arc::new(Population::default());
        let first = population.enter(|| 1).await;
        let waiting = tokio::spawn({
            let population = population.clone();
            async move { drop(population.enter(|| 1).await) }
        });
        assert!(population.try_enter(1).is_none());
        drop(first);
        waiting.await.unwrap();
    }
}
