// Package proxyproto reads the header of the PROXY protocol, versions 1 and 2, with
// which a load balancer tells who is at the other end of a connection that it passes
// on ("The PROXY protocol", HAProxy Technologies, sections 2.1 and 2.2). It reads the
// header's bytes and not one more, so that the connection needs no buffer after it.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// Header is what a header says.
type Header struct {
	Version             int
	Source, Destination netip.AddrPort // invalid where the header names none
}

// Known says whether the header names the client: not for a connection of the load
// balancer's own, such as a health check, and not for families other than IP.
func (h Header) Known() bool { return h.Source.IsValid() }

// ErrMalformed is wrapped by each error that is not one of reading.
var ErrMalformed = errors.New("it is no PROXY header")

const (
	longestLine = 107  // of version 1, line end included
	mostV2      = 2048 // bytes of addresses and extensions
)

var signature = [12]byte{0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Read reads a header.
func Read(r io.Reader) (Header, error) {
	// The shortest header of either version is longer than the signature.
	var head [16]byte
	if _, err := io.ReadFull(r, head[:len(signature)]); err != nil {
		return Header{}, fmt.Errorf("reading the PROXY header: %w", err)
	}
	if [12]byte(head[:12]) == signature {
		return readV2(r, &head)
	}
	if string(head[:6]) != "PROXY " {
		return Header{}, malformed("it begins with %q", head[:6])
	}
	return readV1(r, head[:12])
}

// readV1 reads the rest of the line.
func readV1(r io.Reader, begun []byte) (Header, error) {
	line := append(make([]byte, 0, longestLine), begun...)
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		if len(line) == longestLine {
			return Header{}, malformed("its line is longer than %d bytes", longestLine)
		}
		// One by one: what follows is the client's.
		line = line[:len(line)+1]
		if _, err := io.ReadFull(r, line[len(line)-1:]); err != nil {
			return Header{}, fmt.Errorf("reading the PROXY header: %w", err)
		}
	}
	h := Header{Version: 1}
	words := strings.Split(string(line[:len(line)-2]), " ")
	if words[1] == "UNKNOWN" {
		return h, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return Header{}, malformed("expected PROXY TCP4 or TCP6, two addresses and two ports, or PROXY UNKNOWN")
	}
	var err error
	if h.Source, err = endpoint(words[1], words[2], words[4]); err == nil {
		h.Destination, err = endpoint(words[1], words[3], words[5])
	}
	if err != nil {
		return Header{}, err
	}
	return h, nil
}

// endpoint reads an address and a port in the strict form of version 1.
func endpoint(family, address, port string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(address)
	if err != nil || a.Zone() != "" || (family == "TCP4") != a.Is4() {
		return netip.AddrPort{}, malformed("%q is no address of %s", address, family)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || port != strconv.FormatUint(n, 10) {
		return netip.AddrPort{}, malformed("%q is no port", port)
	}
	return netip.AddrPortFrom(a, uint16(n)), nil
}

// readV2 reads what follows the signature.
func readV2(r io.Reader, head *[16]byte) (Header, error) {
	if _, err := io.ReadFull(r, head[12:]); err != nil {
		return Header{}, fmt.Errorf("reading the PROXY header: %w", err)
	}
	command, family, size := head[12], head[13], int(binary.BigEndian.Uint16(head[14:]))
	if command != 0x20 && command != 0x21 {
		return Header{}, malformed("version and command are %#x, expected 0x20 or 0x21", command)
	}
	if size > mostV2 {
		return Header{}, malformed("it is %d bytes long, at most %d are expected", size, mostV2)
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return Header{}, fmt.Errorf("reading the PROXY header: %w", err)
	}
	h := Header{Version: 2}
	length := map[byte]int{0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}[family]
	if length == 0 && family != 0 {
		return Header{}, malformed("its address family is %#x", family)
	}
	if len(rest) < length {
		return Header{}, malformed("%d bytes of addresses, expected %d", len(rest), length)
	}
	if err := extensions(head, rest, length); err != nil {
		return Header{}, err
	}
	if command == 0x20 { // the sender's own connection
		return h, nil
	}
	switch length {
	case 12:
		h.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest)), binary.BigEndian.Uint16(rest[8:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(rest[4:])), binary.BigEndian.Uint16(rest[10:]))
	case 36:
		h.Source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest)).Unmap(), binary.BigEndian.Uint16(rest[32:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest[16:])).Unmap(), binary.BigEndian.Uint16(rest[34:]))
	}
	return h, nil
}

const typeCRC32C = 0x03

// extensions walks the extensions and proves the checksum where there is one
// (section 2.2.3).
func extensions(head *[16]byte, rest []byte, at int) error {
	for i := at; i < len(rest); {
		if len(rest)-i < 3 {
			return malformed("an extension is cut off")
		}
		n := int(binary.BigEndian.Uint16(rest[i+1:]))
		if len(rest)-i-3 < n {
			return malformed("an extension of %d bytes is cut off", n)
		}
		if value := rest[i+3 : i+3+n]; rest[i] == typeCRC32C {
			if n != 4 {
				return malformed("its checksum has %d bytes, expected 4", n)
			}
			whole := append(head[:len(head):len(head)], rest...)
			clear(whole[16+i+3 : 16+i+7])
			if binary.BigEndian.Uint32(value) != crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli)) {
				return malformed("its checksum is wrong")
			}
		}
		i += 3 + n
	}
	return nil
}
