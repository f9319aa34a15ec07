import type { Native } from './index.js'

/** The package with this platform's binary, such as @anneal/linux-x64-gnu. */
export declare const platformPackage: string

/** The addon as it is, and where it comes from. @throws an error with code ERR_ADDON. */
export declare function loadAddon(): { addon: Native, from: string }

/** The path of a device library: CUDA's, or the emulator's that runs the same kernels in tests. @throws an error with code ERR_DEVICE. */
export declare function deviceLibrary(kind: 'cuda' | 'simt'): string
