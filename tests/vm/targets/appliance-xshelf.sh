# Profile that runs xshelf in a machine of its own (appliance-vm.sh): the kernel of that machine is the point.
# XSHELF_VM_APPLIANCE_KERNEL says which (new; stock is the release's own), XSHELF_VM_MODE the mode of serve (auto).
# Its slots are that machine's disks, three at most; stopping it is a power failure (see appliance-vblade.sh).
# shellcheck shell=bash disable=SC2034  # the variables are read by run.sh and appliance-vblade.sh
. "$VM_DIR/targets/xshelf.sh"
. "$VM_DIR/targets/appliance-vblade.sh"
unset VM_TERM_STATUS
APPLIANCE_KERNEL=${XSHELF_VM_APPLIANCE_KERNEL:-new}
APPLIANCE_CARRY=("$(xshelf_bin)")
# shellcheck disable=SC2016  # expanded in the guest
APPLIANCE_SERVE='slots+=("$shelf.$slot=$dev${opts:+,ro}")'
# Once for all slots: it says at the first moment that it can be found.
# shellcheck disable=SC2016
APPLIANCE_LAST='"/payload/'$(basename "${APPLIANCE_CARRY[0]}")'" serve --interface eth0 --mode '${XSHELF_VM_MODE:-auto}' "${slots[@]}" >/run/xshelf.log 2>&1 &
until grep -q "serving " /run/xshelf.log; do kill -0 $! || { cat /run/xshelf.log; exit 1; }; sleep 0.1; done; cat /run/xshelf.log'

target_features() { echo readonly config maskcmd reserve; }

target_verify() { return 0; }
