package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// patience is how long a client waits for anything, on a machine that has other things to do.
const patience = 60 * time.Second

// voice is a way to speak HTTP with the node.
type voice struct {
	protocol string
	name     string // with how connections are kept
	secure   bool
	kept     bool                                             // connections stay; otherwise each request has a new one
	open     func(k *soak) (tr http.RoundTripper, end func()) // a client without connections
}

// base is the URL of a host, in this voice.
func (v *voice) base(host string) string {
	if v.secure {
		return "https://" + host
	}
	return "http://" + host
}

// voices are all of them.
func voices() []*voice {
	var list []*voice
	for _, v := range []voice{
		{protocol: "HTTP/1.1 in clear", open: clearVoice(false)},
		{protocol: "HTTP/1.1 over TLS", secure: true, open: tlsVoice("http/1.1")},
		{protocol: "HTTP/2 in clear", open: clearVoice(true)},
		{protocol: "HTTP/2 over TLS", secure: true, open: tlsVoice("h2")},
		{protocol: "HTTP/3", secure: true, open: quicVoice},
	} {
		kept, fresh := v, v
		kept.kept = true
		kept.name = v.protocol + ", connections kept"
		fresh.name = v.protocol + ", a connection each"
		list = append(list, &kept, &fresh)
	}
	return list
}

// clearVoice speaks HTTP/1.1, or HTTP/2 with prior knowledge.
func clearVoice(two bool) func(*soak) (http.RoundTripper, func()) {
	return func(k *soak) (http.RoundTripper, func()) {
		var p http.Protocols
		p.SetHTTP1(!two)
		p.SetUnencryptedHTTP2(two)
		tr := &http.Transport{Protocols: &p, MaxIdleConnsPerHost: 8, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", k.g.proxy)
		}}
		return tr, tr.CloseIdleConnections
	}
}

// tlsVoice speaks what ALPN names.
func tlsVoice(protocol string) func(*soak) (http.RoundTripper, func()) {
	return func(k *soak) (http.RoundTripper, func()) {
		tr := &http.Transport{ForceAttemptHTTP2: protocol == "h2", MaxIdleConnsPerHost: 8, DisableCompression: true, DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			name, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return k.shake(ctx, k.g.tls, name, protocol)
		}}
		return tr, tr.CloseIdleConnections
	}
}

// quicVoice speaks HTTP/3.
func quicVoice(k *soak) (http.RoundTripper, func()) {
	tr := &http3.Transport{
		QUICConfig: patient(), TLSClientConfig: &tls.Config{RootCAs: k.roots}, DisableCompression: true,
		Dial: func(ctx context.Context, _ string, conf *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			began := time.Now()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(k.gone, cancel)()
			c, err := quic.DialAddr(ctx, k.g.tls, conf, qc)
			switch {
			case err == nil:
				k.fresh(conf.ServerName, c.ConnectionState().TLS.PeerCertificates[0], began)
			case k.book.stopped(): // over UDP nobody says so
				err = fmt.Errorf("%w: %w", syscall.ECONNREFUSED, err)
			}
			return c, err
		},
	}
	return tr, func() { _ = tr.Close() }
}

// shake connects and shakes hands: the certificate has to be the name's and of the
// authority, and no older than the one before the newest, and that for a second.
func (k *soak) shake(ctx context.Context, addr, name string, protocols ...string) (*tls.Conn, error) {
	began := time.Now()
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, &tls.Config{ServerName: name, RootCAs: k.roots, NextProtos: protocols})
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	if name != throughName {
		k.fresh(name, c.ConnectionState().PeerCertificates[0], began)
	}
	return c, nil
}

// fresh judges the age of a certificate.
func (k *soak) fresh(name string, shown *x509.Certificate, began time.Time) {
	k.handshakes.Add(1)
	if behind, bad := k.fleet.stale(name, shown.SerialNumber.String(), began); bad && behind-k.machine.busy(began.Add(-behind)) > time.Second {
		k.book.wrongly("certificates", "%s: a handshake was shown %s, which had been replaced %s before it began", name, shown.SerialNumber, behind)
	}
}

// every does something again and again until the load ends, at about that distance.
func (k *soak) every(d time.Duration, do func()) {
	k.wg.Go(func() {
		for k.running() {
			do()
			k.rest(d)
		}
	})
}

// rest waits between a half and one and a half of a time, or for the end of the load.
func (k *soak) rest(d time.Duration) {
	pause(k.stop, d/2+time.Duration(mathrand.Int64N(int64(d))))
}

func (k *soak) running() bool {
	select {
	case <-k.stop:
		return false
	default:
		return true
	}
}
