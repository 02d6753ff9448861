package secrets

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// line is one line of the ledger. Hash covers the sequence number, the hash of the
// line before and the event, byte for byte, and needs no key; Mac is the hash
// under the node's key.
type line struct {
	Seq   uint64          `json:"seq"`
	Prev  string          `json:"prev"`
	Event json.RawMessage `json:"event"`
	Hash  string          `json:"hash"`
	Mac   string          `json:"mac"`
}

const maxLine = 1 << 20

func encodeLine(key []byte, seq uint64, prev string, e Event) (text []byte, hash string, err error) {
	event, err := json.Marshal(e)
	if err != nil {
		return nil, "", fmt.Errorf("encoding the event: %w", err)
	}
	l := line{Seq: seq, Prev: prev, Event: event}
	l.Hash = l.sum()
	l.Mac = keyed(key, "line", l.Hash)
	text, err = json.Marshal(l)
	if err != nil {
		return nil, "", fmt.Errorf("encoding the event: %w", err)
	}
	if len(text) >= maxLine {
		return nil, "", fmt.Errorf("the event has %d bytes; expected less than %d", len(text), maxLine)
	}
	return append(text, '\n'), l.Hash, nil
}

// errLine says that a line is not one that encodeLine makes.
var errLine = errors.New("it is no line of a ledger")

// decodeLine reads a line without its end. Anything but the very bytes that were
// written is refused: a field twice, other spacing, a field more.
func decodeLine(text []byte) (line, error) {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return line{}, errLine
	}
	again, err := json.Marshal(l)
	if err != nil || !bytes.Equal(again, text) {
		return line{}, errLine
	}
	return l, nil
}

func (l line) sum() string {
	h := sha256.New()
	fmt.Fprintf(h, "keyway-ledger-1\x00%d\x00%s\x00", l.Seq, l.Prev)
	h.Write(l.Event)
	return hex.EncodeToString(h.Sum(nil))
}

// authentic says that the line was written with the key.
func (l line) authentic(key []byte) bool {
	return l.Hash == l.sum() && hmac.Equal([]byte(l.Mac), []byte(keyed(key, "line", l.Hash)))
}

func keyed(key []byte, what, text string) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(what + "\x00" + text))
	return hex.EncodeToString(m.Sum(nil))
}

// The head file has two records of fixed size that are written in turn, so that
// one is whole whenever the other is being written.
const headSize = 256

type head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
	Mac  string `json:"mac"`
}

func headSlot(seq uint64) int64 { return int64(seq%2) * headSize }

func encodeHead(key []byte, seq uint64, hash string) []byte {
	b, err := json.Marshal(head{seq, hash, headMac(key, seq, hash)})
	if err != nil || len(b) >= headSize {
		return bytes.Repeat([]byte{' '}, headSize) // cannot be: numbers and hex
	}
	return append(append(b, bytes.Repeat([]byte{' '}, headSize-1-len(b))...), '\n')
}

func headMac(key []byte, seq uint64, hash string) string {
	return keyed(key, "head", strconv.FormatUint(seq, 10)+" "+hash)
}

// decodeHead answers the newer of the records that are authentic.
func decodeHead(key, text []byte) (head, bool) {
	var best head
	found := false
	for slot := range 2 {
		var h head
		at := slot * headSize
		if len(text) < at+headSize || json.Unmarshal(text[at:at+headSize], &h) != nil {
			continue
		}
		if hmac.Equal([]byte(h.Mac), []byte(headMac(key, h.Seq, h.Hash))) && (!found || h.Seq > best.Seq) {
			best, found = h, true
		}
	}
	return best, found
}
