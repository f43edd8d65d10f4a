# The same machine boots from a read-only slot: all of it works, but its write is refused.
#: kind host
#: part stock boot
#: mtu 1500
#: opts 0 readonly
#: need readonly
#: timeout 600
export BOOT_DISK=ro
. "$VM_DIR/cases/20-ipxe-boot.sh"
