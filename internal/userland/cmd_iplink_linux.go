package userland

import (
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

func (ip *ipCommand) link() error {
	if ip.isShow() {
		return ip.showLinks()
	}
	switch verb := ip.next(); {
	case isPrefixOf(verb, "set", 2):
		return ip.setLink()
	case isPrefixOf(verb, "add", 1):
		return ip.addLink()
	case isPrefixOf(verb, "delete", 1):
		name := ip.next()
		if name == "dev" {
			name = ip.next()
		}
		l, err := linkByName(name)
		if err != nil {
			return err
		}
		r := &nlRequest{kind: unix.RTM_DELLINK}
		put(r, unix.IfInfomsg{Index: int32(l.index)})
		return r.change(0)
	default:
		return fmt.Errorf("Command \"%s\" is unknown, try \"ip link help\".", verb) //nolint:staticcheck // iproute2's words
	}
}

func (ip *ipCommand) setLink() error {
	name := ip.next()
	if name == "dev" {
		name = ip.next()
	}
	l, err := linkByName(name)
	if err != nil {
		return err
	}
	head := unix.IfInfomsg{Index: int32(l.index)}
	r := &nlRequest{kind: unix.RTM_NEWLINK}
	attrs := &nlRequest{}
	for len(ip.args) > 0 {
		word := ip.next()
		switch word {
		case "up":
			head.Flags |= unix.IFF_UP
			head.Change |= unix.IFF_UP
			continue
		case "down":
			head.Flags &^= unix.IFF_UP
			head.Change |= unix.IFF_UP
			continue
		case "nomaster":
			attrs.attr32(unix.IFLA_MASTER, 0)
			continue
		}
		value, err := ip.value(word)
		if err != nil {
			return err
		}
		if err := linkAttribute(attrs, &head, word, value); err != nil {
			return err
		}
	}
	put(r, head)
	r.body = append(r.body, attrs.body...)
	return r.change(0)
}

func linkAttribute(attrs *nlRequest, head *unix.IfInfomsg, word, value string) error {
	toggle := map[string]uint32{"promisc": unix.IFF_PROMISC, "multicast": unix.IFF_MULTICAST, "arp": unix.IFF_NOARP, "allmulticast": unix.IFF_ALLMULTI}
	if bit := toggle[word]; bit != 0 {
		head.Change |= bit
		if (value == "on") != (word == "arp") {
			head.Flags |= bit
		}
		return nil
	}
	switch word {
	case "mtu", "txqueuelen", "qlen":
		n, err := strconv.ParseUint(value, 0, 32)
		if err != nil {
			return fmt.Errorf("Error: argument \"%s\" is wrong: Invalid \"%s\" value", value, word) //nolint:staticcheck // iproute2's words
		}
		kind := uint16(unix.IFLA_MTU)
		if word != "mtu" {
			kind = unix.IFLA_TXQLEN
		}
		attrs.attr32(kind, uint32(n))
	case "name":
		attrs.attr(unix.IFLA_IFNAME, append([]byte(value), 0))
	case "address":
		mac, err := net.ParseMAC(value)
		if err != nil {
			return fmt.Errorf("\"%s\" is invalid lladdr.", value) //nolint:staticcheck // iproute2's words
		}
		attrs.attr(unix.IFLA_ADDRESS, mac)
	case "master":
		m, err := linkByName(value)
		if err != nil {
			return err
		}
		attrs.attr32(unix.IFLA_MASTER, m.index)
	default:
		return fmt.Errorf("Error: either \"dev\" is duplicate, or \"%s\" is a garbage.", word) //nolint:staticcheck // iproute2's words
	}
	return nil
}

// addLink makes a link of a kind that needs no more than a name.
func (ip *ipCommand) addLink() error {
	name, kind := "", ""
	for len(ip.args) > 0 {
		word := ip.next()
		switch word {
		case "type":
			kind = ip.next()
		case "name", "dev":
			name = ip.next()
		default:
			name = word
		}
	}
	if kind != "dummy" && kind != "bridge" && kind != "ifb" {
		return fmt.Errorf("type \"%s\" is not supported", kind)
	}
	r := &nlRequest{kind: unix.RTM_NEWLINK}
	put(r, unix.IfInfomsg{})
	r.attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	info := &nlRequest{}
	info.attr(unix.IFLA_INFO_KIND, []byte(kind))
	r.attr(unix.IFLA_LINKINFO, info.body)
	return r.change(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
}
