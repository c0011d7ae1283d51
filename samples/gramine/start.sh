#!/bin/sh
# Makes the folders of the encrypted mounts, in a volume that dies with the pod,
# and starts the enclave.
set -eu
mkdir -p /sealed/run /sealed/cart
exec gramine-sgx cart
