package upstream

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"strings"

	"github.com/keyway-edge/keyway/edge/exchange"
	"github.com/keyway-edge/keyway/routing/spec"
)

// sticky keeps a client at one target by a cookie that names it. Every node names a
// target alike, and none tells where it is: the name is a keyed hash, and the key is of
// what only those know who have the document.
type sticky struct {
	cookie, path string
	key          [sha256.Size]byte
}

// stickyOf derives the key of an upstream from its id and, in a cluster, from the UID of
// the object that it was made of: both stay as long as it does.
func stickyOf(u *spec.Upstream) sticky {
	if methodOf(u.Algorithm) != stickySessions {
		return sticky{}
	}
	h := sha256.New()
	h.Write([]byte("keyway sticky sessions\x00" + u.ID))
	for _, tag := range u.Tags {
		if strings.HasPrefix(tag, "k8s-uid:") {
			h.Write([]byte("\x00" + tag))
		}
	}
	return sticky{cookie: u.StickyCookie, path: u.StickyCookiePath, key: [sha256.Size]byte(h.Sum(nil))}
}

// token is what the cookie calls the target of a label, "" where there are no sessions.
func (s *sticky) token(label string) string {
	if s.cookie == "" {
		return ""
	}
	h := hmac.New(sha256.New, s.key[:])
	h.Write([]byte(label))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// sessions are the targets at which sessions go on, by their names in the cookie: all
// that are well, and those that get nobody new (weight 0), whatever zone or subset.
func (b *balancer) sessions(all, serving []*target) map[string]*target {
	list := make(map[string]*target, len(all))
	for _, t := range serving {
		list[t.token] = t
	}
	for _, t := range all {
		if t.weight == 0 && !t.vitals.down.Load() {
			list[t.token] = t
		}
	}
	return list
}

// held is the target at which the request's session is, nil for none. Of several cookies
// of that name, as a client has for several paths, the first that leads to one counts.
func (b *balancer) held(f *exchange.Fields) *target {
	v := b.current()
	for line := range f.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if name != b.sticky.cookie {
				continue
			}
			if t := v.sessions[value]; t != nil {
				return t
			}
		}
	}
	return nil
}

// bind is the cookie that a client gets who was served by another target than its
// session's, "" for nothing new. A target that was a name still is bound to the address.
func (b *balancer) bind(held, t *target, addr netip.AddrPort, secure bool) string {
	if t == held && t.addr.IsValid() {
		return ""
	}
	token := t.token
	if !t.addr.IsValid() {
		token = b.sticky.token(peerLabel(t.name, addr))
	}
	text := b.sticky.cookie + "=" + token + "; Path=" + b.sticky.path + "; SameSite=Lax; HttpOnly"
	if secure {
		text += "; Secure"
	}
	return text
}

// peerLabel tells the addresses of one name apart.
func peerLabel(name string, addr netip.AddrPort) string { return name + " " + addr.String() }
