//! URLs against the network client's rules, and addresses: whatever we call public, the standard library calls global.
#![no_main]
#![feature(ip)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use countersign_egress::{HostPattern, Network, is_public};
use libfuzzer_sys::fuzz_target;
use url::Url;

fuzz_target!(|data: &[u8]| {
    if let Some(bytes) = data.first_chunk::<4>() {
        public(Ipv4Addr::from(*bytes).into());
    }
    if let Some(bytes) = data.first_chunk::<16>() {
        public(Ipv6Addr::from(*bytes).into());
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(url) = Url::parse(text) {
        countersign_egress::fuzz(&url);
    }
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(network.to_string().parse(), Ok(network));
    }
    if let Ok(pattern) = text.parse::<HostPattern>() {
        assert_eq!(pattern.to_string().parse().as_ref(), Ok(&pattern));
    }
});

fn public(address: IpAddr) {
    if is_public(address) {
        match address.to_canonical() {
            IpAddr::V4(address) => assert!(address.is_global(), "{address}"),
            IpAddr::V6(address) => assert!(address.is_global(), "{address}"),
        }
    }
}
