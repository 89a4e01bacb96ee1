"""A root certificate that has signed no other one. Envoy needs some root, and gets this one where a Secret has none.

Its private key was deleted, and it expired in 2000. A constant, because replicas have to send the same bytes.
"""

from typing import Final

PEM: Final = """\
-----BEGIN CERTIFICATE-----
MIIBJTCBzaADAgECAgEBMAoGCCqGSM49BAMCMBExDzANBgNVBAMMBm5vYm9keTAe
Fw0wMDAxMDEwMDAwMDBaFw0wMDAxMDIwMDAwMDBaMBExDzANBgNVBAMMBm5vYm9k
eTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDQdIfEHTqjlv71c4m5asW62GE71
M9R0qWvyBfkH1C49UHd6KM28siTHXdv9q+vti86G1andLlvuo9HQMJVMkpyjFjAU
MBIGA1UdEwEB/wQIMAYBAf8CAQAwCgYIKoZIzj0EAwIDRwAwRAIgdc+lTNOrMydC
j3vVd+icxO0NPdpa7KQ2cwqovmUIGO8CIDuizWbsFz7G8MTnGuFfLwuk9hTVLPfV
9DBtN9kSXHUq
-----END CERTIFICATE-----
"""
