//! The router of this machine, from Linux' table of routes. Pure.

use std::net::Ipv4Addr;

/// Where Linux tells its IPv4 routes.
pub(super) const TABLE: &str = "/proc/net/route";
/// Flags of a route that is up and leads to a router (`RTF_UP`, `RTF_GATEWAY`).
const UP_AND_GATEWAY: u32 = 0b11;

/// Returns the router behind the default route, that of the smallest metric where there are
/// several. `routes` is the text of [`TABLE`].
pub(super) fn default_gateway(routes: &str) -> Option<Ipv4Addr> {
    let routes = routes.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let destination = address(fields.next()?)?;
        let gateway = address(fields.next()?)?;
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let metric: u32 = fields.nth(2)?.parse().ok()?;
        let mask = address(fields.next()?)?;
        let default = destination.is_unspecified() && mask.is_unspecified();
        (default && flags & UP_AND_GATEWAY == UP_AND_GATEWAY).then_some((metric, gateway))
    });
    routes.min().map(|(_, gateway)| gateway)
}

/// Reads an address as the kernel prints it: the bytes of memory as one number.
fn address(field: &str) -> Option<Ipv4Addr> {
    u32::from_str_radix(field, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n";

    /// Prints an address as the kernel does.
    fn hex(address: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(address))
    }

    fn line(to: [u8; 4], by: [u8; 4], flags: &str, metric: u32, mask: [u8; 4]) -> String {
        let (to, by, mask) = (hex(to), hex(by), hex(mask));
        format!("eth0\t{to}\t{by}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n")
    }

    #[test]
    fn the_default_route_with_the_smallest_metric_counts() {
        let lan = line([192, 168, 1, 0], [0; 4], "0001", 0, [255, 255, 255, 0]);
        let half = line([0; 4], [10, 8, 0, 1], "0003", 0, [128, 0, 0, 0]);
        let wifi = line([0; 4], [192, 168, 2, 1], "0003", 600, [0; 4]);
        let cable = line([0; 4], [192, 168, 1, 1], "0003", 100, [0; 4]);
        let down = line([0; 4], [192, 168, 9, 1], "0002", 1, [0; 4]);
        let direct = line([0; 4], [0; 4], "0001", 2, [0; 4]);
        let cases = [
            (vec![], None),
            (vec![&lan, &half, &down, &direct], None),
            (vec![&lan, &wifi, &down], Some(Ipv4Addr::new(192, 168, 2, 1))),
            (vec![&wifi, &lan, &cable, &direct], Some(Ipv4Addr::new(192, 168, 1, 1))),
        ];
        for (lines, expected) in cases {
            let text: String = lines.into_iter().map(String::as_str).collect();
            assert_eq!(default_gateway(&format!("{HEAD}{text}")), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_is_no_route() {
        for text in ["", "\n\n", "eth0\n", "head\neth0 zz zz zz 0 0 0 zz\n", "head\neth0 00 01\n"] {
            assert_eq!(default_gateway(text), None, "{text:?}");
        }
    }
}
