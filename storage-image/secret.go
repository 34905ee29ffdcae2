package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	identity = "/var/run/secrets/kubernetes.io/serviceaccount"
	// The kubelet writes a changed Secret into the mount within about 90 seconds; later the file decides.
	mountLag = 3 * time.Minute
	// The API server is asked once in this time at most, however many unknown names are tried.
	pause = time.Second
)

// errNotAsked is answered with 500, which clients repeat: whether the account exists is not known yet.
var errNotAsked = errors.New("the Secret of the accounts could not be read yet")

// secret is the mounted Secret as the API server holds it: a new namespace's key is there before the kubelet has written it
// into the mount.
type secret struct {
	name string

	mutex  sync.Mutex
	asking bool
	asked  time.Time // when the last answer or failure came
	read   time.Time // when data came
	data   map[string][]byte
	failed error
}

// value returns the key of an account in the Secret, or nothing where it holds none. One call asks at a time; the others
// do not wait for it.
func (s *secret) value(name string) ([]byte, error) {
	if s.name == "" {
		return nil, nil
	}
	s.mutex.Lock()
	if key, ok := s.data[name]; ok && time.Since(s.read) < mountLag {
		s.mutex.Unlock()
		return key, nil
	}
	if s.asking {
		s.mutex.Unlock()
		return nil, errNotAsked
	}
	if time.Since(s.asked) < pause {
		defer s.mutex.Unlock()
		return nil, s.failed
	}
	s.asking = true
	s.mutex.Unlock()

	data, err := s.get()

	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.asking, s.asked, s.failed = false, time.Now(), nil
	if err != nil {
		log.Printf("the Secret %s cannot be read, so accounts newer than its mount are unknown: %v", s.name, err)
		s.failed = errNotAsked
		return nil, s.failed
	}
	s.data, s.read = data, s.asked
	return data[name], nil
}

func (s *secret) get() (map[string][]byte, error) {
	token, err := os.ReadFile(filepath.Join(identity, "token"))
	if err != nil {
		return nil, err
	}
	namespace, err := os.ReadFile(filepath.Join(identity, "namespace"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(filepath.Join(identity, "ca.crt"))
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(authority)
	client := http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}, DisableKeepAlives: true},
	}
	url := fmt.Sprintf("https://kubernetes.default.svc/api/v1/namespaces/%s/secrets/%s", namespace, s.name)
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the API server answers %s", answer.Status)
	}
	var body struct{ Data map[string][]byte }
	err = json.NewDecoder(answer.Body).Decode(&body)
	return body.Data, err
}
