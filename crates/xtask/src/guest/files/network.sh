#!/bin/bash
# Names and addresses by Ethernet address, as NixOS test machines have them: 52:54:00:12:VLAN:NODE is node NODE of
# VLAN VLAN, and such cards are eth1, eth2 ... in the order of their slots; eth0 is the card to the outside.
set -u
shopt -s nullglob
outside=52:54:00:12:34:56
names=() addresses=()
for card in /sys/class/net/*; do
    name=${card##*/} mac=$(<"$card/address")
    if [[ $mac == 52:54:00:12:* && $mac != "$outside" ]]; then
        names+=("$(<"$card/ifindex") $name $mac")
    fi
done
mapfile -t cards < <(printf '%s\n' "${names[@]}" | sort -n)
batch=$'link set lo up\n' last='' number=0
for card in "${cards[@]}"; do
    [[ -n $card ]] || continue
    read -r _ name mac <<<"$card"
    number=$((number + 1))
    vlan=$((16#${mac:12:2})) node=$((16#${mac:15:2}))
    # Through a name that nobody has: eth0 may have to become eth1 while there is an eth1.
    batch+="link set $name name vlan-card$number"$'\n'
    last+="link set vlan-card$number name eth$number"$'\n'
    last+="address add 192.168.$vlan.$node/24 broadcast + dev eth$number"$'\n'
    last+="address add 2001:db8:$vlan::$node/64 dev eth$number nodad"$'\n'
    last+="link set eth$number up"$'\n'
done
printf '%s' "$batch$last" | ip -force -batch -
