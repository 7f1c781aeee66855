package certmagiclock_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	certmagiclock "github.com/pgadvisory/pgadvisory/adapters/certmagic"
	"github.com/pgadvisory/pgadvisory/hashkey"
	"github.com/pgadvisory/pgadvisory/inspect"
	"github.com/pgadvisory/pgadvisory/locktest"
	"github.com/pgadvisory/pgadvisory/sessionlock"
)

// storage is what one instance of a cluster has.
type storage interface {
	certmagic.Storage
	certmagic.TryLocker
}

func newStorage(t *testing.T, files certmagic.Storage, o sessionlock.Options) storage {
	t.Helper()
	l := sessionlock.New(locktest.DB(t)).With(o)
	return certmagiclock.WithLocks(files, l, "certmagic").(storage)
}

// issuer is a certificate authority that counts its certificates.
type issuer struct {
	issued  atomic.Int64
	issuing func() // called before a certificate is issued
}

func (i *issuer) IssuerKey() string { return "test" }

func (i *issuer) Issue(_ context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	i.issued.Add(1)
	i.issuing()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: csr.DNSNames, NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, csr.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &certmagic.IssuedCertificate{Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// Of two instances that want one certificate, one obtains it, under a lock of the
// server, and the other one finds it.
func TestObtain(t *testing.T) {
	db := locktest.DB(t)
	files := &certmagic.FileStorage{Path: t.TempDir()}
	ca := &issuer{issuing: func() {
		locks, err := inspect.Locks(context.Background(), db)
		if err != nil || len(locks) == 0 || !locks[0].Granted {
			t.Errorf("a certificate is issued while the server has these locks: %v (error %v)", locks, err)
		}
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var group sync.WaitGroup
	for range 2 {
		config := &certmagic.Config{}
		cache := certmagic.NewCache(certmagic.CacheOptions{
			GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return config, nil },
		})
		defer cache.Stop()
		config = certmagic.New(cache, certmagic.Config{
			Storage: newStorage(t, files, sessionlock.Options{Shareable: true}),
			Issuers: []certmagic.Issuer{ca},
		})
		group.Go(func() {
			if err := config.ObtainCertSync(ctx, "shop.example"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := ca.issued.Load(); n != 1 {
		t.Errorf("%d certificates were issued", n)
	}
	if locks, err := inspect.Locks(t.Context(), db); err != nil || len(locks) != 0 {
		t.Errorf("locks are left: %v (error %v)", locks, err)
	}
}

// An unlock has no more than a name. It never frees the lock of somebody else in
// this process who has got the name since.
func TestUnlockAfterALoss(t *testing.T) {
	ctx, url, name := t.Context(), locktest.URL(t), "issue_cert_shop.example"
	ours, others := newStorage(t, nil, sessionlock.Options{}), newStorage(t, nil, sessionlock.Options{})
	lock := func() {
		t.Helper()
		if err := ours.Lock(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	free := func() bool {
		t.Helper()
		ok, err := others.TryLock(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			if err := others.Unlock(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		return ok
	}
	lock()
	locktest.Lose(t, url, hashkey.Namespace("certmagic").Name(name))
	lock() // the second holder
	if err := ours.Unlock(ctx, name); !errors.Is(err, sessionlock.ErrLost) {
		t.Errorf("unlock of the first holder: %v, want ErrLost", err)
	}
	if free() {
		t.Error("the first holder has freed the lock of the second one")
	}
	if err := ours.Unlock(ctx, name); err != nil {
		t.Errorf("unlock of the second holder: %v", err)
	}
	if !free() {
		t.Error("the lock is not free")
	}
	if err := ours.Unlock(ctx, name); err == nil {
		t.Error("an unlock without a lock is a success")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if ok, err := ours.TryLock(ended, name); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("a try whose ctx has ended: %t, %v", ok, err)
	}
}
