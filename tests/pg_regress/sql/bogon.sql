-- Addresses that cannot be in use on the internet, with the reason.
SELECT address, is_bogon(address), bogon_reason(address)
FROM unnest('{0.0.0.0, 10.0.0.1, 100.64.0.1, 127.0.0.1, 169.254.0.1, 172.16.0.1, 192.0.2.1,
              192.168.0.1, 198.18.0.1, 198.51.100.1, 203.0.113.1, 224.0.0.1, 255.255.255.255,
              8.8.8.8, ::1, fe80::1, fc00::1, ff02::1, 2001:db8::1, ::ffff:10.0.0.1,
              2001:4860:4860::8888}'::inet[]) AS address;
