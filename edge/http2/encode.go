package http2

import (
	"fmt"
	"strconv"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/edge/exchange/wire"
)

// Header sections are encoded without the dynamic table and without Huffman's code
// (RFC 7541): names that the static table has are sent as its index, everything else
// as it is. A table would hold one value a request of Date and request ids; the bytes
// saved are not worth what keeping it costs here.

const (
	tableSizeZero  = 0x20 // dynamic table size update to 0
	indexedStatus  = 8    // :status 200; 204, 206, 304, 400, 404, 500 follow
	literalIndex   = 0x00 // literal field without indexing, 4 bits of index
	neverIndexed   = 0x10 // the same, for what must not be kept in any table
	nameIndexBits  = 15
	lengthIndex    = 28 // content-length
	longestKnown   = len("access-control-allow-origin")
	setCookieIndex = 55
)

// static is a name of the static table with its index.
type static struct {
	name  string
	index int
}

// staticNames are fields that responses have (RFC 7541, appendix A), by the length of
// their names: a few comparisons are less than a map's hash.
var staticNames = [longestKnown + 1][]static{
	3:  {{"via", 60}, {"age", 21}},
	4:  {{"date", 33}, {"etag", 34}, {"vary", 59}, {"link", 45}},
	5:  {{"allow", 22}},
	6:  {{"server", 54}},
	7:  {{"expires", 36}, {"refresh", 52}},
	8:  {{"location", 46}},
	10: {{"set-cookie", setCookieIndex}},
	11: {{"retry-after", 53}},
	12: {{"content-type", 31}},
	13: {{"cache-control", 24}, {"last-modified", 44}, {"accept-ranges", 18}, {"content-range", 30}},
	14: {{"content-length", lengthIndex}},
	16: {{"content-encoding", 26}, {"content-language", 27}, {"content-location", 29}, {"www-authenticate", 61}},
	18: {{"proxy-authenticate", 48}},
	19: {{"content-disposition", 25}},
	25: {{"strict-transport-security", 56}},
	27: {{"access-control-allow-origin", 20}},
}

// staticIndex is the index of a name in lower case, 0 for one that the table does not have.
func staticIndex(name []byte) int {
	if len(name) > longestKnown {
		return 0
	}
	for _, s := range staticNames[len(name)] {
		if s.name == string(name) {
			return s.index
		}
	}
	return 0
}

// appendStatus appends :status.
func appendStatus(b []byte, status int) []byte {
	for i, known := range [...]int{200, 204, 206, 304, 400, 404, 500} {
		if status == known {
			return append(b, byte(0x80|indexedStatus+i))
		}
	}
	b = append(b, literalIndex|indexedStatus, 3)
	return append(b, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
}

// appendLength appends content-length.
func appendLength(b []byte, n int64) []byte {
	b = appendInt(b, literalIndex, nameIndexBits, lengthIndex)
	at := len(b)
	b = strconv.AppendInt(append(b, 0), n, 10)
	b[at] = byte(len(b) - at - 1)
	return b
}

// appendInt appends an integer with a prefix whose bits are all set in limit (RFC 7541, section 5.1).
func appendInt(b []byte, first byte, limit, n int) []byte {
	if n < limit {
		return append(b, first|byte(n))
	}
	b = append(b, first|byte(limit))
	for n -= limit; n >= 128; n >>= 7 {
		b = append(b, byte(n)|128)
	}
	return append(b, byte(n))
}

// appendFields appends the fields of a message, but those of HTTP/1.1 connections,
// which may not be sent here (RFC 9113, section 8.2.2): what the upstream side let
// through, or a plugin set, ends here.
func appendFields(b []byte, fields *exchange.Fields) ([]byte, error) {
	var err error
	for i := range fields.Len() {
		f := fields.At(i)
		if b, err = appendField(b, f.Name, f.Value); err != nil {
			return b, err
		}
	}
	return b, nil
}

func appendField(b []byte, name, value string) ([]byte, error) {
	if connectionField(name) {
		return b, nil
	}
	var room [64]byte
	lower, ok := wire.AppendLower(room[:0], name)
	if !ok {
		return b, fmt.Errorf("writing field %q: the name is not a token", name)
	}
	if !wire.Plain(value) {
		return b, fmt.Errorf("writing field %s: its value has a control character", name)
	}
	index := staticIndex(lower)
	first := byte(literalIndex)
	if index == setCookieIndex {
		first = neverIndexed
	}
	b = appendInt(b, first, nameIndexBits, index)
	if index == 0 {
		b = appendInt(b, 0, 127, len(lower))
		b = append(b, lower...)
	}
	b = appendInt(b, 0, 127, len(value))
	return append(b, value...), nil
}

// connectionField says whether a field is of HTTP/1.1 connections.
func connectionField(name string) bool {
	switch len(name) {
	case 7:
		return exchange.EqualFold(name, "Upgrade")
	case 10:
		return exchange.EqualFold(name, "Connection") || exchange.EqualFold(name, "Keep-Alive")
	case 16:
		return exchange.EqualFold(name, "Proxy-Connection")
	case 17:
		return exchange.EqualFold(name, "Transfer-Encoding")
	}
	return false
}
