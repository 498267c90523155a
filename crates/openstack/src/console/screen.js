// A machine's screen in a browser: RFB (RFC 6143) over a WebSocket, drawn on a canvas. The page's query says where that is, as for
// noVNC: path=console/websockify?token=… on this very host.
"use strict";
(() => {
    const canvas = document.getElementById("screen");
    const picture = canvas.getContext("2d", { alpha: false });
    const state = document.getElementById("state");
    const again = document.getElementById("again");

    const COPY_RECT = 1, RAW = 0, DESKTOP_SIZE = -223, LAST_RECT = -224, SCAN_CODES = -258;

    // Names of keys that write nothing, in X's numbers.
    const KEYSYMS = {
        Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Pause: 0xff13, ScrollLock: 0xff14, Escape: 0xff1b, Delete: 0xffff,
        Home: 0xff50, ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54, PageUp: 0xff55, PageDown: 0xff56,
        End: 0xff57, PrintScreen: 0xff61, Insert: 0xff63, ContextMenu: 0xff67, NumLock: 0xff7f, CapsLock: 0xffe5, AltGraph: 0xfe03,
        Shift: 0xffe1, Control: 0xffe3, Alt: 0xffe9, Meta: 0xffeb,
    };
    const RIGHT = { Shift: 0xffe2, Control: 0xffe4, Alt: 0xffea, Meta: 0xffec };
    for (let number = 1; number <= 12; number++) KEYSYMS["F" + number] = 0xffbd + number;

    // Places of keys in the numbers of a PC's keyboard, so that the guest's own layout says what they write.
    const SCANCODES = {};
    const place = (first, names) => names.split(" ").forEach((name, index) => { SCANCODES[name] = first + index; });
    place(1, "Escape Digit1 Digit2 Digit3 Digit4 Digit5 Digit6 Digit7 Digit8 Digit9 Digit0 Minus Equal Backspace Tab");
    place(16, "KeyQ KeyW KeyE KeyR KeyT KeyY KeyU KeyI KeyO KeyP BracketLeft BracketRight Enter ControlLeft");
    place(30, "KeyA KeyS KeyD KeyF KeyG KeyH KeyJ KeyK KeyL Semicolon Quote Backquote ShiftLeft Backslash");
    place(44, "KeyZ KeyX KeyC KeyV KeyB KeyN KeyM Comma Period Slash ShiftRight NumpadMultiply AltLeft Space CapsLock");
    place(59, "F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 NumLock ScrollLock Numpad7 Numpad8 Numpad9 NumpadSubtract");
    place(75, "Numpad4 Numpad5 Numpad6 NumpadAdd Numpad1 Numpad2 Numpad3 Numpad0 NumpadDecimal");
    place(86, "IntlBackslash F11 F12");
    place(0x9c, "NumpadEnter ControlRight");
    place(0xb5, "NumpadDivide");
    place(0xb7, "PrintScreen AltRight");
    place(0xc7, "Home ArrowUp PageUp");
    place(0xcb, "ArrowLeft");
    place(0xcd, "ArrowRight");
    place(0xcf, "End ArrowDown PageDown Insert Delete");
    place(0xdb, "MetaLeft MetaRight ContextMenu");

    const say = (text) => { state.textContent = text; };

    // What has come and was not read yet.
    class Inbox {
        constructor() {
            this.pieces = [];
            this.length = 0;
            this.over = false;
            this.wake = () => {};
        }

        push(piece) {
            this.pieces.push(piece);
            this.length += piece.length;
            this.wake();
        }

        end() {
            this.over = true;
            this.wake();
        }

        async take(count) {
            while (this.length < count) {
                if (this.over) throw new Error("The connection was closed.");
                await new Promise((wake) => { this.wake = wake; });
            }
            const taken = new Uint8Array(count);
            let filled = 0;
            while (filled < count) {
                const piece = this.pieces[0];
                const part = piece.subarray(0, count - filled);
                taken.set(part, filled);
                filled += part.length;
                if (part.length === piece.length) this.pieces.shift();
                else this.pieces[0] = piece.subarray(part.length);
            }
            this.length -= count;
            return taken;
        }

        async view(count) {
            return new DataView((await this.take(count)).buffer);
        }

        async text(count) {
            return new TextDecoder().decode(await this.take(count));
        }
    }

    class Session {
        constructor(socket) {
            this.socket = socket;
            this.inbox = new Inbox();
            this.width = 0;
            this.height = 0;
            this.takesScanCodes = false;
            this.isReady = false;
            this.held = new Map();
            this.buttons = 0;
            socket.binaryType = "arraybuffer";
            socket.onmessage = (event) => this.inbox.push(new Uint8Array(event.data));
            socket.onclose = () => this.inbox.end();
        }

        send(bytes) {
            if (this.socket.readyState === WebSocket.OPEN) this.socket.send(new Uint8Array(bytes));
        }

        async greet() {
            const version = await this.inbox.text(12);
            if (!version.startsWith("RFB ")) throw new Error("What answers is no screen.");
            this.send(new TextEncoder().encode("RFB 003.008\n"));
            const [count] = await this.inbox.take(1);
            if (count === 0) throw new Error(await this.reason());
            if (!(await this.inbox.take(count)).includes(1)) throw new Error("The screen asks for a password.");
            this.send([1]);
            if ((await this.inbox.view(4)).getUint32(0) !== 0) throw new Error(await this.reason());
            // Others may look, too.
            this.send([1]);
            const about = await this.inbox.view(24);
            this.resize(about.getUint16(0), about.getUint16(2));
            const name = await this.inbox.text(about.getUint32(20));
            // Four bytes a point, in the order in which the canvas has them.
            this.send([0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0]);
            const encodings = [COPY_RECT, RAW, DESKTOP_SIZE, LAST_RECT, SCAN_CODES];
            this.send([2, 0, 0, encodings.length, ...encodings.flatMap(word)]);
            this.isReady = true;
            say(name);
            this.ask(false);
        }

        async reason() {
            return this.inbox.text(Math.min((await this.inbox.view(4)).getUint32(0), 4096));
        }

        async run() {
            await this.greet();
            for (;;) {
                const [kind] = await this.inbox.take(1);
                if (kind === 0) await this.update();
                else if (kind === 1) await this.inbox.take(6 * (await this.inbox.view(5)).getUint16(3));
                else if (kind === 3) await this.inbox.take((await this.inbox.view(7)).getUint32(3));
                else if (kind !== 2) throw new Error("The screen said what nobody understands.");
            }
        }

        // Asks for the screen: what has changed of it, or all.
        ask(changes) {
            this.send([3, changes ? 1 : 0, 0, 0, 0, 0, ...half(this.width), ...half(this.height)]);
        }

        async update() {
            const count = (await this.inbox.view(3)).getUint16(1);
            let resized = false;
            for (let index = 0; index < count; index++) {
                const head = await this.inbox.view(12);
                const [x, y, width, height] = [0, 2, 4, 6].map((at) => head.getUint16(at));
                const encoding = head.getInt32(8);
                if (encoding === LAST_RECT) break;
                if (encoding === RAW) await this.draw(x, y, width, height);
                else if (encoding === COPY_RECT) {
                    const from = await this.inbox.view(4);
                    picture.drawImage(canvas, from.getUint16(0), from.getUint16(2), width, height, x, y, width, height);
                } else if (encoding === DESKTOP_SIZE) {
                    this.resize(width, height);
                    resized = true;
                } else if (encoding === SCAN_CODES) this.takesScanCodes = true;
                else throw new Error("The screen is drawn in a way that nobody asked for.");
            }
            this.ask(!resized);
        }

        async draw(x, y, width, height) {
            if (width === 0 || height === 0) return;
            const points = new Uint8ClampedArray((await this.inbox.take(4 * width * height)).buffer);
            for (let at = 3; at < points.length; at += 4) points[at] = 255;
            picture.putImageData(new ImageData(points, width, height), x, y);
        }

        resize(width, height) {
            this.width = canvas.width = width;
            this.height = canvas.height = height;
        }

        key(keysym, scancode, down) {
            if (!this.isReady) return;
            if (this.takesScanCodes && scancode) this.send([255, 0, 0, down ? 1 : 0, ...word(keysym), ...word(scancode)]);
            else if (keysym) this.send([4, down ? 1 : 0, 0, 0, ...word(keysym)]);
        }

        press(event) {
            const before = this.held.get(event.code);
            const keysym = before ? before[0] : keysymOf(event);
            const scancode = SCANCODES[event.code] || 0;
            if (!keysym && !scancode) return;
            this.held.set(event.code, [keysym, scancode]);
            this.key(keysym, scancode, true);
        }

        release(code) {
            const held = this.held.get(code);
            if (held && this.held.delete(code)) this.key(...held, false);
        }

        releaseAll() {
            for (const code of [...this.held.keys()]) this.release(code);
        }

        pointer(event, wheel) {
            if (!this.isReady) return;
            const box = canvas.getBoundingClientRect();
            const at = (position, size, count) => Math.max(0, Math.min(count - 1, Math.floor((position * count) / size)));
            const x = at(event.clientX - box.left, box.width, this.width);
            const y = at(event.clientY - box.top, box.height, this.height);
            this.send([5, this.buttons | wheel, ...half(x), ...half(y)]);
        }
    }

    const half = (value) => [(value >> 8) & 255, value & 255];
    const word = (value) => [value >>> 24, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];

    function keysymOf(event) {
        if (event.location === KeyboardEvent.DOM_KEY_LOCATION_RIGHT && RIGHT[event.key]) return RIGHT[event.key];
        if (KEYSYMS[event.key]) return KEYSYMS[event.key];
        const letters = [...event.key];
        if (letters.length !== 1) return 0;
        const point = letters[0].codePointAt(0);
        return point < 0x100 ? point : 0x01000000 | point;
    }

    let session = null;

    async function connect() {
        again.hidden = true;
        const path = new URLSearchParams(location.search).get("path") || "";
        const address = new URL("/" + path.replace(/^[/\\]+/, ""), location.href);
        address.protocol = location.protocol === "http:" ? "ws:" : "wss:";
        if (!path || address.host !== location.host) return say("The page's address names no console. Ask for a new one.");
        say("Connecting…");
        session = new Session(new WebSocket(address, ["binary"]));
        try {
            await session.run();
        } catch (error) {
            const late = session.isReady ? "" : " An address is good for ten minutes and while the machine runs: ask for a new one.";
            say(error.message + late);
        }
        session.isReady = false;
        session.socket.close();
        again.hidden = false;
    }

    const swallow = (event) => { event.preventDefault(); event.stopPropagation(); };
    canvas.addEventListener("keydown", (event) => { session.press(event); swallow(event); });
    canvas.addEventListener("keyup", (event) => { session.release(event.code); swallow(event); });
    canvas.addEventListener("blur", () => session.releaseAll());
    canvas.addEventListener("contextmenu", swallow);
    canvas.addEventListener("pointermove", (event) => session.pointer(event, 0));
    for (const name of ["pointerdown", "pointerup", "pointercancel"]) {
        canvas.addEventListener(name, (event) => {
            if (name === "pointerdown") {
                canvas.focus();
                canvas.setPointerCapture(event.pointerId);
            }
            const { buttons } = event;
            session.buttons = (buttons & 1) | (buttons & 4 ? 2 : 0) | (buttons & 2 ? 4 : 0);
            session.pointer(event, 0);
            swallow(event);
        });
    }
    canvas.addEventListener("wheel", (event) => {
        if (event.deltaY !== 0) {
            session.pointer(event, event.deltaY < 0 ? 8 : 16);
            session.pointer(event, 0);
        }
        swallow(event);
    }, { passive: false });
    document.getElementById("cad").addEventListener("click", () => {
        const keys = [[0xffe3, SCANCODES.ControlLeft], [0xffe9, SCANCODES.AltLeft], [0xffff, SCANCODES.Delete]];
        keys.forEach((key) => session.key(...key, true));
        keys.reverse().forEach((key) => session.key(...key, false));
        canvas.focus();
    });
    again.addEventListener("click", connect);
    connect();
    canvas.focus();
})();
