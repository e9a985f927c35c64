package userland

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ipCommand is one run of ip.
type ipCommand struct {
	c      *call
	family byte
	brief  bool
	oneRow bool
	args   []string
}

// runIP shows and changes links, addresses and routes, with the words and the
// output of iproute2.
func runIP(c *call) int {
	if len(c.args) == 1 && c.args[0] == "--help" {
		c.printf("usage: ip %s\n", c.cmd.usage)
		return exitOK
	}
	ip := &ipCommand{c: c, family: unix.AF_UNSPEC, args: c.args}
	for len(ip.args) > 0 && strings.HasPrefix(ip.args[0], "-") {
		switch opt := strings.TrimPrefix(ip.args[0], "-"); opt {
		case "4":
			ip.family = unix.AF_INET
		case "6", "-6":
			ip.family = unix.AF_INET6
		case "br", "brief", "-brief":
			ip.brief = true
		case "o", "oneline", "-oneline":
			ip.oneRow = true
		case "d", "s", "stats", "details", "c", "color", "N":
		default:
			c.errorf("Option \"%s\" is unknown, try \"ip --help\".", ip.args[0])
			return 255
		}
		ip.args = ip.args[1:]
	}
	if len(ip.args) == 0 {
		c.usageError("an object is needed: address, link, route, neigh")
		return 255
	}
	object := ip.next()
	var err error
	c.out.buffered()
	switch {
	case isPrefixOf(object, "address", 1):
		err = ip.address()
	case isPrefixOf(object, "link", 1):
		err = ip.link()
	case isPrefixOf(object, "route", 1):
		err = ip.route()
	case isPrefixOf(object, "neighbor", 1) || object == "neighbour":
		err = ip.neighbors()
	default:
		c.errorf("Object \"%s\" is unknown, try \"ip --help\".", object)
		return exitFailure
	}
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		// The wording and the status of iproute2 for the kernel's answers.
		c.out.Flush()
		fmt.Fprintf(c.err, "RTNETLINK answers: %s\n", reason(err))
		return exitUsage
	case err != nil:
		return c.errorf("%s", err)
	}
	return exitOK
}

// isPrefixOf reports whether word abbreviates full with at least n letters.
func isPrefixOf(word, full string, n int) bool {
	return len(word) >= n && strings.HasPrefix(full, word)
}

func (ip *ipCommand) next() string {
	if len(ip.args) == 0 {
		return ""
	}
	word := ip.args[0]
	ip.args = ip.args[1:]
	return word
}

// value takes the word after a keyword.
func (ip *ipCommand) value(keyword string) (string, error) {
	if len(ip.args) == 0 {
		return "", fmt.Errorf("argument of \"%s\" is missing", keyword)
	}
	return ip.next(), nil
}

// ipLink is one network interface.
type ipLink struct {
	index, flags uint32
	kind         uint16
	name         string
	obj          nlObject
}

func links() ([]ipLink, error) {
	msgs, err := dump(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	var list []ipLink
	for _, m := range msgs {
		o, err := parseObject(m, unix.SizeofIfInfomsg)
		if err != nil {
			return nil, err
		}
		list = append(list, ipLink{
			kind: binary.NativeEndian.Uint16(o.head[2:]), index: binary.NativeEndian.Uint32(o.head[4:]),
			flags: binary.NativeEndian.Uint32(o.head[8:]), name: o.text(unix.IFLA_IFNAME), obj: o,
		})
	}
	return list, nil
}

func linkByName(name string) (ipLink, error) {
	list, err := links()
	if err != nil {
		return ipLink{}, err
	}
	for _, l := range list {
		if l.name == name {
			return l, nil
		}
	}
	return ipLink{}, fmt.Errorf("Cannot find device \"%s\"", name) //nolint:staticcheck // iproute2's words
}

func linkName(list []ipLink, index uint32) string {
	for _, l := range list {
		if l.index == index {
			return l.name
		}
	}
	return "if" + strconv.Itoa(int(index))
}

// flagNames lists an interface's flags in iproute2's order.
func flagNames(flags uint32) string {
	var names []string
	if flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING == 0 {
		names = append(names, "NO-CARRIER")
	}
	names = append(names, bitNames(flags, []namedBit{
		{unix.IFF_LOOPBACK, "LOOPBACK"},
		{unix.IFF_BROADCAST, "BROADCAST"},
		{unix.IFF_POINTOPOINT, "POINTOPOINT"},
		{unix.IFF_MULTICAST, "MULTICAST"},
		{unix.IFF_NOARP, "NOARP"},
		{unix.IFF_ALLMULTI, "ALLMULTI"},
		{unix.IFF_PROMISC, "PROMISC"},
		{unix.IFF_MASTER, "MASTER"},
		{unix.IFF_SLAVE, "SLAVE"},
		{unix.IFF_DEBUG, "DEBUG"},
		{unix.IFF_DYNAMIC, "DYNAMIC"},
		{unix.IFF_AUTOMEDIA, "AUTOMEDIA"},
		{unix.IFF_PORTSEL, "PORTSEL"},
		{unix.IFF_NOTRAILERS, "NOTRAILERS"},
		{unix.IFF_UP, "UP"},
		{unix.IFF_LOWER_UP, "LOWER_UP"},
		{unix.IFF_DORMANT, "DORMANT"},
		{unix.IFF_ECHO, "ECHO"},
	})...)
	return strings.Join(names, ",")
}

// namedBit is one flag of the kernel's.
type namedBit struct {
	bit  uint32
	name string
}

// bitNames names the flags that are set, in the order of all.
func bitNames(flags uint32, all []namedBit) []string {
	var names []string
	for _, f := range all {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return names
}

// operState names IFLA_OPERSTATE (linux/if.h).
func (l ipLink) operState() string {
	names := []string{"UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"}
	if v := l.obj.attrs[unix.IFLA_OPERSTATE]; len(v) > 0 && int(v[0]) < len(names) {
		return names[v[0]]
	}
	return "UNKNOWN"
}

func hardwareAddress(b []byte) string {
	parts := make([]string, len(b))
	for i, v := range b {
		parts[i] = fmt.Sprintf("%02x", v)
	}
	return strings.Join(parts, ":")
}

// hardwareType names ARPHRD_ values.
func hardwareType(kind uint16) string {
	switch kind {
	case unix.ARPHRD_ETHER:
		return "ether"
	case unix.ARPHRD_LOOPBACK:
		return "loopback"
	case unix.ARPHRD_NONE:
		return "none"
	case unix.ARPHRD_TUNNEL:
		return "ipip"
	case unix.ARPHRD_SIT:
		return "sit"
	case unix.ARPHRD_PPP:
		return "ppp"
	}
	return strconv.Itoa(int(kind))
}

// printLink prints the one or two lines of a link; mode is only for ip link.
func (ip *ipCommand) printLink(l ipLink, all []ipLink, mode bool) {
	name := l.name
	if peer, ok := l.obj.u32(unix.IFLA_LINK); ok && peer != l.index {
		if peer == 0 {
			name += "@NONE"
		} else if _, foreign := l.obj.attrs[unix.IFLA_LINK_NETNSID]; foreign {
			name += fmt.Sprintf("@if%d", peer)
		} else {
			name += "@" + linkName(all, peer)
		}
	}
	mtu, _ := l.obj.u32(unix.IFLA_MTU)
	ip.c.printf("%d: %s: <%s> mtu %d qdisc %s", l.index, name, flagNames(l.flags), mtu, l.obj.text(unix.IFLA_QDISC))
	if master, ok := l.obj.u32(unix.IFLA_MASTER); ok {
		ip.c.printf(" master %s", linkName(all, master))
	}
	ip.c.printf(" state %s", l.operState())
	if mode {
		ip.c.printf(" mode DEFAULT")
	}
	ip.c.printf(" group default")
	if qlen, ok := l.obj.u32(unix.IFLA_TXQLEN); ok && qlen > 0 {
		ip.c.printf(" qlen %d", qlen)
	}
	ip.newline()
	ip.c.printf("    link/%s", hardwareType(l.kind))
	if addr := l.obj.attrs[unix.IFLA_ADDRESS]; len(addr) > 0 {
		ip.c.printf(" %s", hardwareAddress(addr))
		word := "brd"
		if l.flags&unix.IFF_POINTOPOINT != 0 {
			word = "peer"
		}
		if brd := l.obj.attrs[unix.IFLA_BROADCAST]; len(brd) > 0 {
			ip.c.printf(" %s %s", word, hardwareAddress(brd))
		}
	}
	ip.c.printf("\n")
}

// newline ends a line, or marks it when everything goes on one (-o).
func (ip *ipCommand) newline() {
	if ip.oneRow {
		ip.c.printf("\\")
	} else {
		ip.c.printf("\n")
	}
}

// ipAddress is one address of an interface.
type ipAddress struct {
	family, prefix, flags8, scope byte
	index                         uint32
	flags                         uint32
	obj                           nlObject
}

func addresses(family byte) ([]ipAddress, error) {
	msgs, err := dump(unix.RTM_GETADDR, family)
	if err != nil {
		return nil, err
	}
	var list []ipAddress
	for _, m := range msgs {
		o, err := parseObject(m, unix.SizeofIfAddrmsg)
		if err != nil {
			return nil, err
		}
		a := ipAddress{family: o.head[0], prefix: o.head[1], flags8: o.head[2], scope: o.head[3], index: binary.NativeEndian.Uint32(o.head[4:]), obj: o}
		a.flags = uint32(a.flags8)
		if v, ok := o.u32(unix.IFA_FLAGS); ok {
			a.flags = v
		}
		list = append(list, a)
	}
	return list, nil
}

func (a ipAddress) ip(kind uint16) string {
	addr, ok := netip.AddrFromSlice(a.obj.attrs[kind])
	if !ok {
		return ""
	}
	return addr.String()
}

// local is the interface's own address with its prefix.
func (a ipAddress) local() string {
	addr := a.ip(unix.IFA_LOCAL)
	peer := a.ip(unix.IFA_ADDRESS)
	if addr == "" {
		addr = peer
	}
	if peer != "" && peer != addr {
		return fmt.Sprintf("%s peer %s/%d", addr, peer, a.prefix)
	}
	return fmt.Sprintf("%s/%d", addr, a.prefix)
}

func scopeName(scope byte) string {
	switch scope {
	case unix.RT_SCOPE_UNIVERSE:
		return "global"
	case unix.RT_SCOPE_SITE:
		return "site"
	case unix.RT_SCOPE_LINK:
		return "link"
	case unix.RT_SCOPE_HOST:
		return "host"
	case unix.RT_SCOPE_NOWHERE:
		return "nowhere"
	}
	return strconv.Itoa(int(scope))
}

func (ip *ipCommand) printAddress(a ipAddress) {
	word := "inet"
	if a.family == unix.AF_INET6 {
		word = "inet6"
	}
	ip.c.printf("    %s %s", word, a.local())
	if brd := a.ip(unix.IFA_BROADCAST); brd != "" {
		ip.c.printf(" brd %s", brd)
	}
	ip.c.printf(" scope %s ", scopeName(a.scope))
	for _, name := range bitNames(a.flags, []namedBit{
		{unix.IFA_F_SECONDARY, "secondary"},
		{unix.IFA_F_TENTATIVE, "tentative"},
		{unix.IFA_F_DEPRECATED, "deprecated"},
		{unix.IFA_F_DADFAILED, "dadfailed"},
		{unix.IFA_F_NODAD, "nodad"},
		{unix.IFA_F_HOMEADDRESS, "home"},
		{unix.IFA_F_MANAGETEMPADDR, "mngtmpaddr"},
		{unix.IFA_F_NOPREFIXROUTE, "noprefixroute"},
	}) {
		ip.c.printf("%s ", name)
	}
	if a.flags&unix.IFA_F_PERMANENT == 0 {
		ip.c.printf("dynamic ")
	}
	if label := a.obj.text(unix.IFA_LABEL); label != "" {
		ip.c.printf("%s", label)
	}
	ip.newline()
	valid, preferred := "forever", "forever"
	if ci := a.obj.attrs[unix.IFA_CACHEINFO]; len(ci) >= 8 {
		preferred, valid = lifetime(ci), lifetime(ci[4:])
	}
	ip.c.printf("       valid_lft %s preferred_lft %s\n", valid, preferred)
}

func lifetime(b []byte) string {
	if v := binary.NativeEndian.Uint32(b); v != ^uint32(0) {
		return strconv.FormatUint(uint64(v), 10) + "sec"
	}
	return "forever"
}

// showFilter reads what to show: "dev NAME", "up" or NAME.
func (ip *ipCommand) showFilter() (device string, up bool, err error) {
	if len(ip.args) > 0 {
		switch word := ip.args[0]; {
		case isPrefixOf(word, "show", 1), word == "list", word == "lst", word == "ls":
			ip.next()
		}
	}
	for len(ip.args) > 0 {
		switch word := ip.next(); word {
		case "dev":
			if device, err = ip.value(word); err != nil {
				return "", false, err
			}
		case "up":
			up = true
		case "scope", "type", "master", "to":
			return "", false, fmt.Errorf("filter \"%s\" is not supported", word)
		default:
			device = word
		}
	}
	if device != "" {
		if _, lerr := linkByName(device); lerr != nil {
			return "", false, fmt.Errorf("Device \"%s\" does not exist.", device) //nolint:staticcheck // iproute2's words
		}
	}
	return device, up, nil
}

// selected returns the links that the arguments ask for, and all.
func (ip *ipCommand) selected() (shown, all []ipLink, err error) {
	device, up, err := ip.showFilter()
	if err != nil {
		return nil, nil, err
	}
	if all, err = links(); err != nil {
		return nil, nil, err
	}
	for _, l := range all {
		if (device == "" || l.name == device) && (!up || l.flags&unix.IFF_UP != 0) {
			shown = append(shown, l)
		}
	}
	return shown, all, nil
}

func (ip *ipCommand) showLinks() error {
	shown, all, err := ip.selected()
	if err != nil {
		return err
	}
	for _, l := range shown {
		if ip.brief {
			ip.c.printf("%-16s %-14s %s <%s> \n", l.name, l.operState(), hardwareAddress(l.obj.attrs[unix.IFLA_ADDRESS]), flagNames(l.flags))
			continue
		}
		ip.printLink(l, all, true)
	}
	return nil
}

func (ip *ipCommand) showAddresses() error {
	shown, all, err := ip.selected()
	if err != nil {
		return err
	}
	addrs, err := addresses(ip.family)
	if err != nil {
		return err
	}
	for _, l := range shown {
		var own []ipAddress
		for _, a := range addrs {
			if a.index == l.index {
				own = append(own, a)
			}
		}
		if ip.family != unix.AF_UNSPEC && len(own) == 0 {
			continue
		}
		switch {
		case ip.brief:
			ip.c.printf("%-16s %-14s ", l.name, l.operState())
			for _, a := range own {
				ip.c.printf("%s ", a.local())
			}
			ip.c.printf("\n")
			continue
		case !ip.oneRow:
			if ip.family == unix.AF_UNSPEC {
				ip.printLink(l, all, false)
			} else {
				ip.printLinkHead(l, all)
			}
		}
		for _, a := range own {
			if ip.oneRow {
				ip.c.printf("%d: %s", l.index, l.name)
			}
			ip.printAddress(a)
		}
	}
	return nil
}

// printLinkHead is the first line of a link only, as "ip -4 addr" shows it.
func (ip *ipCommand) printLinkHead(l ipLink, all []ipLink) {
	inner := *ip
	var b strings.Builder
	inner.c = newCall(ip.c.ctx, ip.c.cmd, []string{"ip"}, process{stdio: Stdio{Out: &b}})
	inner.printLink(l, all, false)
	head, _, _ := strings.Cut(b.String(), "\n")
	ip.c.out.WriteString(head + "\n")
}
