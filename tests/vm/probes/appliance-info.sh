# What the appliance machine offers.
uname -r
echo "cpus $(nproc), $(grep -E 'HugePages_(Total|Free)' /proc/meminfo | tr -s ' \n' ' ')"
for b in /sys/block/nvme* /sys/block/sd*; do
    echo "${b##*/}: $(($(cat "$b"/size) / 2048)) MiB, lbs $(cat "$b"/queue/logical_block_size), pbs $(cat "$b"/queue/physical_block_size), max $(cat "$b"/queue/max_hw_sectors_kb) KiB, cache $(cat "$b"/queue/write_cache), model $(cat "$b"/device/model 2>/dev/null), queues $(find "$b/mq" -mindepth 1 -maxdepth 1 | wc -l)"
done
hdparm -I /dev/sda 2>/dev/null | grep -E 'Model|LBA48|FLUSH|Queue depth' | head
for n in $VM_IFS; do ethtool -i "$n" | head -n 2; ethtool -l "$n" | tail -n 5 | tr '\n' ' '; echo; done
ls -la /sys/kernel/btf/vmlinux; mount | grep -E 'bpf|hugetlb'
for d in /dev/appliance/*; do echo "${d##*/} -> $(readlink "$d")"; done
for d in /dev/appliance/*; do
    echo "$d"
    dd if=/dev/zero of="$d" bs=64k count=64 oflag=direct 2>&1 | tail -n 1
    fio --name=x --filename="$d" --ioengine=io_uring --direct=1 --rw=randread --bs=4k --iodepth=16 --size=8M --runtime=3 --aux-path=/tmp --eta=never | grep -E 'IOPS|err='
done
