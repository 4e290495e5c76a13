/* Search works in a worker, which browsers refuse to pages read from a disk: there a frame takes its place. */
if (location.protocol === "file:") window.Worker = class extends EventTarget {
  constructor(url) {
    super()
    const home = new URL(url, location.href)
    const frame = document.createElement("iframe")
    frame.hidden = true
    frame.title = "search"
    document.documentElement.append(frame)
    this.inner = frame.contentWindow
    const answer = data => {
      const event = new MessageEvent("message", { data })
      this.dispatchEvent(event)
      if (this.onmessage) this.onmessage(event)
    }
    this.inner.postMessage = data => setTimeout(() => answer(data))
    this.ready = new Promise(done => {
      const inside = this.inner.document
      this.inner.importScripts = (...urls) => Promise.all(urls.map(u => load(new URL(u, home))))
      const load = src => new Promise(loaded => {
        const script = inside.createElement("script")
        script.src = src
        script.onload = loaded
        inside.documentElement.append(script)
      })
      load(home).then(done)
    })
  }
  postMessage(data) {
    const event = new MessageEvent("message", { data })
    this.ready.then(() => {
      this.inner.dispatchEvent(event)
      if (this.inner.onmessage) this.inner.onmessage(event)
    })
  }
  terminate() { this.inner.frameElement.remove() }
}
