package certmagiclock_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/big"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

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

// logOf has the log of slog go where the test reads it.
func logOf(t *testing.T) *logs {
	t.Helper()
	l := new(logs)
	usual := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(l, nil)))
	t.Cleanup(func() {
		slog.SetDefault(usual)
		log.SetOutput(os.Stderr) // which SetDefault has changed
	})
	return l
}

// logs is a log that is read while it is written.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
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

// An unlock has no more than a name. It does not free the lock of another holder in
// this process, which has got the name since. A lock that was lost is logged, and is
// no error: certmagic would keep it in its books.
func TestUnlockAfterALoss(t *testing.T) {
	log := logOf(t)
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
	if err := ours.Unlock(ctx, name); err != nil {
		t.Errorf("unlock of the first holder: %v", err)
	}
	if text := log.String(); strings.Count(text, "level=ERROR") != 1 || !strings.Contains(text, "lost") {
		t.Errorf("the loss is logged as: %s", text)
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

// Of the locks of a name, an unlock is taken for that of a lost one, in whichever
// order the two holders have come by theirs.
func TestUnlockOfTheLostOne(t *testing.T) {
	logOf(t)
	ctx, url, name := t.Context(), locktest.URL(t), "issue_cert_shop.example"
	key := hashkey.Namespace("certmagic").Name(name)
	ours := newStorage(t, nil, sessionlock.Options{})
	l := sessionlock.New(locktest.DB(t)).With(sessionlock.Options{Check: 10 * time.Millisecond})
	lost, err := l.Lock(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	locktest.Lose(t, url, key)
	select {
	case <-lost.Lost():
	case <-time.After(30 * time.Second):
		t.Fatal("the loss is not noticed")
	}
	if err := ours.Lock(ctx, name); err != nil {
		t.Fatal(err)
	}
	certmagiclock.Keep(ours, name, lost)
	if err := ours.Unlock(ctx, name); err != nil {
		t.Errorf("unlock of the holder that has lost its lock: %v", err)
	}
	if ok, err := newStorage(t, nil, sessionlock.Options{}).TryLock(ctx, name); ok || err != nil {
		t.Errorf("the other holder is at work, and another instance has its lock: %t, %v", ok, err)
	}
	if err := ours.Unlock(ctx, name); err != nil {
		t.Errorf("unlock of the other holder: %v", err)
	}
}

// An unlock returns when its ctx ends, and goes on.
func TestUnlockHeedsItsContext(t *testing.T) {
	hangs, unlocked := make(chan struct{}), make(chan struct{})
	ours := newStorage(t, nil, sessionlock.Options{Observe: func(e sessionlock.Event) {
		if e.Kind == sessionlock.Released {
			<-hangs
			close(unlocked)
		}
	}})
	if err := ours.Lock(t.Context(), "name"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	returned := make(chan error, 1)
	go func() { returned <- ours.Unlock(ctx, "name") }()
	select {
	case err := <-returned:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v, want that of ctx", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the unlock has not returned")
	}
	close(hangs)
	select {
	case <-unlocked:
	case <-time.After(30 * time.Second):
		t.Error("the unlock has not gone on")
	}
}

// The lock excludes, whatever the options of the Locker say.
func TestSharedExcludes(t *testing.T) {
	shared := func() storage { return newStorage(t, nil, sessionlock.Options{Shared: true}) }
	one, two := shared(), shared()
	if err := one.Lock(t.Context(), "name"); err != nil {
		t.Fatal(err)
	}
	if ok, err := two.TryLock(t.Context(), "name"); ok || err != nil {
		t.Errorf("another instance gets the lock too: %t, %v", ok, err)
	}
	if err := one.Unlock(t.Context(), "name"); err != nil {
		t.Error(err)
	}
}

// secretive is a storage with a secret.
type secretive struct {
	certmagic.Storage
	Password string
}

// reticent is one that hides it.
type reticent struct{ secretive }

func (reticent) String() string { return "a storage of the test" }

// certmagic logs its storage: the text that this has for itself, and none of its
// fields.
func TestStorageInTheLog(t *testing.T) {
	for _, test := range []struct {
		storage certmagic.Storage
		want    string
	}{
		{reticent{secretive{Password: "secret"}}, "a storage of the test"},
		{secretive{Password: "secret"}, "certmagiclock_test.secretive"},
	} {
		var text strings.Builder
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		logger := zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&text), zapcore.DebugLevel))
		wrapped := newStorage(t, test.storage, sessionlock.Options{})
		logger.Info("cleaning storage", zap.Any("storage", wrapped)) // as certmagic does
		if got := text.String(); !strings.Contains(got, fmt.Sprintf("%q:%q", "storage", test.want)) || strings.Contains(got, "secret\"") {
			t.Errorf("%T is logged as %s", test.storage, got)
		}
	}
}
